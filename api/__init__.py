"""The read-only HTTP API of a node: state from its files, flows from its store, metrics."""
