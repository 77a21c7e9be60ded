"""Tandem's collector: from UDP datagrams to a queryable store of flow records.

The tree of folders is the path of the data: receive, journal, decode, ledger, store, query.
"""

__version__ = "0.1.0"
