"""How a collector proves its own path, and what of it keepalived and the API are told.

:mod:`~appliance.health.canary` are datagrams that only this node can make, sent through the real
sockets by :mod:`~appliance.health.probe`; what came of them is in the
:mod:`~appliance.health.pulse`, a mapped file. :mod:`~appliance.health.judge` says what that means,
:mod:`~appliance.health.report` writes it down, :mod:`~appliance.health.watch` is the process that
does all this. :mod:`~appliance.health.state_socket` is the collector's own word.
"""
