"""From the network to the journal: sockets, their steering, and the receiving thread."""
