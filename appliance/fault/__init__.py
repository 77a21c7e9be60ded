"""Faults that drills make on this node, by a process of root that does nothing else.

Each fault is one of a fixed list, has an end, and is undone by this process itself: whoever asked
for it may be dead by then, or cut off.
"""
