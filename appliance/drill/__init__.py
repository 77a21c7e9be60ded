"""A drill's load: numbered flow records, what is sent and when, and what a node has of it."""
