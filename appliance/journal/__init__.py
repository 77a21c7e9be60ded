"""The journal: raw datagrams that are not yet safely stored, on disk before they are looked at."""
