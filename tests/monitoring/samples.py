"""What the programs of a node say when they are scraped: Tandem's own metrics made by its code.

What the API says of the cluster needs one; those metrics are written here as it names them. So are
keepalived-exporter's, under the names and labels that it documents.
"""

from __future__ import annotations

import time
from pathlib import Path

from api.exposition import Metric, render
from api.ledger_metrics import ledger_metrics
from api.metrics import journal_metrics, listener_metrics, node_metrics, store_metrics
from api.node_file import ListenerState, NodeDocument, Shard, Worker
from appliance.state import LedgerView, StateReader
from appliance.store.retired import Reason
from tests.integration.harness import datagram
from tests.unit.node_samples import write_shard

NODES = ("n1", "n2")
HAPROXY = """
global
  log stderr local0 emerg
defaults
  mode tcp
  timeout client 5s
  timeout server 5s
  timeout connect 1s
frontend metrics
  mode http
  bind 127.0.0.1:{port}
  http-request use-service prometheus-exporter if {{ path /metrics }}
frontend ipfix
  bind 127.0.0.1:{ipfix}
  default_backend ipfix
backend ipfix
  server local 127.0.0.1:9 check
"""


def tandem(node: str, data_dir: Path) -> str:
    """``/metrics`` of the API of ``node``."""
    ready = Metric("ready", "gauge", "")
    ready.add(1)
    document = _document(node)
    write_shard(data_dir, 0, [("192.0.2.1", datagram(0)), ("192.0.2.2", b"no datagram")])
    view = StateReader(data_dir).ledger()
    gone = {Reason.EXPIRED: {"192.0.2.1": 7}}
    view = LedgerView(view.table, view.updated_ns, view.torn, view.uncounted, gone)
    return render(
        [
            ready,
            *node_metrics(document),
            *listener_metrics(document),
            *journal_metrics(document),
            *ledger_metrics(view, 50),
            *store_metrics(data_dir),
            *_cluster(node),
            *_host(),
        ]
    )


def keepalived(node: str) -> str:
    """``/metrics`` of keepalived-exporter of ``node``: one instance, master on n1."""
    state = 2 if node == NODES[0] else 1
    names = [
        *(f"advertisements_{n}_total" for n in ("received", "sent", "interval_errors")),
        *(f"{n}_master_total" for n in ("become", "release")),
        *(f"{n}_errors_total" for n in ("packet_length", "ip_ttl", "address_list")),
        *(f"authentication_{n}_total" for n in ("invalid", "mismatch", "failure")),
        *(f"priority_zero_{n}_total" for n in ("received", "sent")),
        *("invalid_type_received_total", "gratuitous_arp_delay_total"),
    ]
    labels = 'iname="v1-4",intf="host0",vrid="51"'
    lines = ["keepalived_up 1"]
    lines += [f"keepalived_{name}{{{labels}}} 3" for name in names]
    lines.append(f'keepalived_vrrp_state{{{labels},ip_address="10.77.0.101/32"}} {state}')
    return "".join(f"{line}\n" for line in lines)


def _document(node: str) -> NodeDocument:
    now = time.time_ns()
    udp = ListenerState(address="::", port=2055, transport="udp", datagrams=7, bytes=700)
    return NodeDocument(
        node=node,
        version="1.2.3",
        pid=1,
        started_ns=now,
        updated_ns=now,
        workers=(Worker(pid=2, shards=(0,), load=0.25),),
        listeners=(udp,),
        shards=(Shard(shard=0, journal_position=7, journal_bytes=4096),),
    )


def _cluster(node: str) -> list[Metric]:
    found: dict[str, Metric] = {}

    def one(name: str, value: float, **labels: str) -> None:
        if name not in found:
            found[name] = Metric(name, "counter" if name.endswith("_total") else "gauge", "")
        found[name].add(value, **labels)

    for state in ("ok", "starting", "disk_full", "hung", "killed"):
        one("health", int(state == "ok"), state=state)
    one("health_age_seconds", 0.1)
    one("drained", 0, vip="")
    for number, vip in enumerate(("v1", "v2")):
        one("vip_active", int(NODES[number] == node), vip=vip)
        one("vip_transitions_total", 1, vip=vip)
        one("vrrp_lower_priority_adverts_total", 0, vip=vip)
        one("drained", 0, vip=vip)
        one("cluster_split_brain", 0, vip=vip)
        one("cluster_vip_unheld", 0, vip=vip)
    for peer in NODES:
        one("cluster_node_reachable", 1, node=peer)
        one("cluster_clock_offset_seconds", 0.001, node=peer)
    one("cluster_config_drift", 0)
    one("keepalived_up", 1)
    one("haproxy_up", 1)
    return list(found.values())


def _host() -> list[Metric]:
    load = Metric("host_load1", "gauge", "")
    load.add(0.5)
    memory = Metric("host_memory_available_bytes", "gauge", "")
    memory.add(2**30)
    traffic = []
    for way in ("received", "transmitted"):
        metric = Metric(f"host_network_{way}_bytes_total", "counter", "")
        metric.add(1000, interface="host0")
        metric.add(1000, interface="lo")
        traffic.append(metric)
    return [load, memory, *traffic]
