"""What is wrong in a cluster, each a sentence that names the node or the VIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from api.views import ClusterVip, MemberView, NodeView

CLOCK_SECONDS = 1.0
"""Clocks further apart than this make times of flow records differ between nodes."""


def problems(
    nodes: list[MemberView], vips: list[ClusterVip], views: Mapping[str, NodeView]
) -> list[str]:
    """All that is wrong; empty when all is well. ``views``: of the nodes that answer, by name."""
    found = [f"{n.name} does not answer: {n.problem}" for n in nodes if not n.reachable]
    for vip in vips:
        if len(vip.holders) > 1:
            found.append(f"split brain: {' and '.join(vip.holders)} hold {vip.vip}")
        elif not vip.holders:
            found.append(f"no node that answers holds {vip.vip}")
    for view in views.values():
        found += _of_node(view)
    if drift(views.values()):
        digests = ", ".join(f"{v.name} {v.config_sha256[:8]}" for v in views.values())
        found.append(f"the nodes' configurations differ in what they must share: {digests}")
    if len({v.version for v in views.values()}) > 1:
        found.append(
            "the nodes' versions differ: "
            + ", ".join(f"{v.name} {v.version or 'unknown'}" for v in views.values())
        )
    for node in nodes:
        offset = node.clock_offset_seconds
        if offset is not None and abs(offset) > CLOCK_SECONDS:
            way = "ahead" if offset > 0 else "behind"
            found.append(f"the clock of {node.name} is {abs(offset):.1f} s {way}")
    return found


def drift(views: Iterable[NodeView]) -> bool:
    """Whether the nodes differ in what they must have in common."""
    return len({view.config_sha256 for view in views}) > 1


def _of_node(view: NodeView) -> list[str]:
    """What a node says is wrong with itself."""
    name = view.name
    found = []
    if not view.ready:
        found.append(f"{name} does not collect: {'; '.join(view.reasons) or 'it says not why'}")
    if view.balanced is False:
        found.append(f"the ledger of {name} does not balance; see `tandem ledger` there")
    if view.keepalived is not None and view.keepalived.up is False:
        found.append(f"{name}: {view.keepalived.problem or 'keepalived does not run'}")
    if view.haproxy is not None and view.haproxy.up is False:
        found.append(f"HAProxy on {name} is {view.haproxy.problem or 'down'}")
    if view.fault is not None and view.fault.active:
        found.append(f"{name}: a drill does its {view.fault.active}")
    for vip in view.vips:
        if vip.agrees is False:
            kernel = "has" if vip.held else "does not have"
            found.append(
                f"{name}: keepalived says {vip.keepalived} for {vip.vip}, but the kernel {kernel} "
                "its addresses"
            )
    return found
