"""A small network of namespaces with traffic and real exporters, to try a collector with.

    clients ──┬── edge1 (softflowd, NetFlow v9) ──┬── servers
              ├── edge2 (softflowd, IPFIX)      ──┤
              ┆                                   ┆
              └── edge5 (pmacctd, sFlow)        ──┘

Each edge is a router in a namespace of its own, with a link to this machine over which it exports.
"""
