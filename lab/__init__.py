"""The lab: a cluster's machines on this one, as systemd-nspawn nodes on one bridge.

Nodes are real in all that matters here: systemd as PID 1, an own kernel view of the network, an own
file system on a common base image. Playbooks and Molecule make and break them by ``python -m lab``.
"""
