"""The ledger: what became of every datagram and every record, for each source.

:mod:`~appliance.ledger.counters` names what is counted, :mod:`~appliance.ledger.ledger` counts and
checks that it balances, :mod:`~appliance.ledger.sequence` finds what never arrived.
"""
