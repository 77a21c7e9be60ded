"""The HTTP API of a node: its state, its part in the cluster, its flow records, metrics."""
