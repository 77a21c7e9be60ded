"""Settings of the cluster: kept alike on all nodes, laid over each node's configuration file."""
