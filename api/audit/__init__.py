"""The audit log: who asked for which change, in files whose lines vouch for each other."""
