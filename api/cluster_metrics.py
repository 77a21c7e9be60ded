"""The node's part in the cluster, its programs and its machine, as metrics."""

from __future__ import annotations

from api.cluster import cluster_view
from api.exposition import Metric
from api.observer import Observer
from api.troubles import drift
from api.views import NodeView
from appliance.health.judge import State


def cluster_metrics(observed: Observer) -> list[Metric]:
    """All of them, from memory."""
    own = observed.view()
    found = [*_programs(own), *_host(own)]
    if observed.health is not None:
        found += _health(own)
    if observed.config.cluster is not None:
        found += [*_vips(observed, own), *_cluster(observed)]
    return found


def _vips(observed: Observer, own: NodeView) -> list[Metric]:
    active = Metric("vip_active", "gauge", "1 while this node holds all addresses of the VIP")
    moved = Metric(
        "vip_transitions_total",
        "counter",
        "Times that the VIP came to this node or left it since the API started",
    )
    drained = Metric(
        "drained",
        "gauge",
        'Whether this node is asked to give the VIP up; vip="" is the whole node',
    )
    lower = Metric(
        "vrrp_lower_priority_adverts_total",
        "counter",
        "Times that another master of lower priority was heard, since the API started",
    )
    drained.add(int(own.drain.node), vip="")
    for vip in own.vips:
        if vip.held is not None:
            active.add(int(vip.held), vip=vip.vip)
        moved.add(observed.tracker.count[vip.vip], vip=vip.vip)
        drained.add(int(vip.vip in own.drain.vips), vip=vip.vip)
        if observed.keepalived is not None:
            lower.add(observed.keepalived.lower_priority[vip.vip], vip=vip.vip)
    return [active, moved, drained, lower]


def _cluster(observed: Observer) -> list[Metric]:
    view = cluster_view(observed)
    reachable = Metric(
        "cluster_node_reachable", "gauge", "1 while the node's API answers this node, else 0"
    )
    offset = Metric(
        "cluster_clock_offset_seconds", "gauge", "The node's clock minus that of this node"
    )
    for node in view.nodes:
        reachable.add(int(node.reachable), node=node.name)
        if node.clock_offset_seconds is not None:
            offset.add(node.clock_offset_seconds, node=node.name)
    split = Metric(
        "cluster_split_brain", "gauge", "1 while more than one node says that it holds the VIP"
    )
    unheld = Metric("cluster_vip_unheld", "gauge", "1 while no node that answers holds the VIP")
    for vip in view.vips:
        split.add(int(len(vip.holders) > 1), vip=vip.vip)
        unheld.add(int(not vip.holders), vip=vip.vip)
    differs = Metric(
        "cluster_config_drift", "gauge", "1 while nodes differ in what they must have in common"
    )
    views = [p.view for p in observed.peers.values() if p.view is not None]
    differs.add(int(drift([observed.view(), *views])))
    return [reachable, offset, split, unheld, differs]


def _health(own: NodeView) -> list[Metric]:
    state = Metric("health", "gauge", "1 for the state that the health unit found last, else 0")
    age = Metric("health_age_seconds", "gauge", "Time since the health unit last said anything")
    for name in State:
        state.add(int(own.health is not None and own.health.state == name), state=name)
    if own.health is not None:
        age.add(max(0.0, (own.time_ns - own.health.updated_ns) / 1e9))
    return [state, age]


def _programs(own: NodeView) -> list[Metric]:
    found = []
    for name, program in (("keepalived", own.keepalived), ("haproxy", own.haproxy)):
        if program is not None and program.up is not None:
            metric = Metric(f"{name}_up", "gauge", "1 while it runs and answers, else 0")
            metric.add(int(program.up))
            found.append(metric)
    return found


def _host(own: NodeView) -> list[Metric]:
    if own.host is None:
        return []
    load = Metric("host_load1", "gauge", "Load of the machine, mean of the last minute")
    load.add(own.host.load1)
    memory = Metric("host_memory_available_bytes", "gauge", "Memory that programs could still get")
    memory.add(own.host.memory_available_bytes)
    received = Metric(
        "host_network_received_bytes_total", "counter", "Bytes received by an interface"
    )
    sent = Metric("host_network_transmitted_bytes_total", "counter", "Bytes sent by an interface")
    for name, traffic in own.host.interfaces.items():
        received.add(traffic.received_bytes, interface=name)
        sent.add(traffic.transmitted_bytes, interface=name)
    return [load, memory, received, sent]
