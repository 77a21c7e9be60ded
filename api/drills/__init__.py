"""Drills: deliberate failovers under a load, measured by what the nodes have stored of it."""
