"""The segment store: immutable files of flow records, and everything that keeps them in order.

A table (``flows``, ``counters``, ``options``) is one directory. The collector's shards add small
*hot* segments to it (Arrow IPC, about one a second); maintenance merges them into *packed* ones
(Parquet, by hour) and removes what retention no longer keeps. docs: ``files.py`` says which files
a reader sees, ``manifest.py`` how that changes in one step.
"""
