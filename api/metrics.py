"""``/metrics``: the node, its listeners, journals, store and ledger, for Prometheus."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from api.cluster import Observed
from api.cluster_metrics import cluster_metrics
from api.exposition import MEDIA_TYPE, Metric, render
from api.gate import Gate
from api.ledger_metrics import ledger_metrics
from api.node_file import NodeDocument
from appliance import __version__
from appliance.state import StateError, StateReader
from appliance.store.files import TABLES, snapshot

log = logging.getLogger(__name__)
router = APIRouter(tags=["metrics"])

_EXAMPLE = """# HELP tandem_listener_datagrams_total Datagrams received since the node started
# TYPE tandem_listener_datagrams_total counter
tandem_listener_datagrams_total{transport="udp",address="::",port="2055"} 1203400
"""


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"example": _EXAMPLE}}}},
)
async def metrics(request: Request, observed: Observed) -> PlainTextResponse:
    """Base units; counters end in `_total`, and start at zero with the node."""
    state = request.app.state
    reads: Gate = state.reads
    reader: StateReader = state.state

    def work() -> str:
        document = observed.watcher.snapshot.document
        found = [_up(not observed.unready()), *cluster_metrics(observed)]
        if document is not None:
            found += [*node_metrics(document), *listener_metrics(document)]
            found += journal_metrics(document)
        try:
            found += ledger_metrics(reader.ledger(), state.config.metrics.exporters)
        except StateError as error:
            log.warning("metrics without the ledger: %s", error)
        found += store_metrics(state.config.data_dir)
        return render(found)

    return PlainTextResponse(await reads.run(work), media_type=MEDIA_TYPE)


def _up(ready: bool) -> Metric:
    metric = Metric("ready", "gauge", "1 while the node collects, else 0; /readyz says why not")
    metric.add(int(ready))
    return metric


def node_metrics(document: NodeDocument) -> list[Metric]:
    """What there is once."""
    info = Metric("build_info", "gauge", "Always 1; the labels say what runs here")
    python = ".".join(map(str, sys.version_info[:3]))
    info.add(1, node=document.node, version=document.version or __version__, python=python)
    started = Metric("start_time_seconds", "gauge", "When the collector started (Unix time)")
    started.add(document.started_ns / 1e9)
    workers = Metric("workers", "gauge", "Worker processes; follows the load")
    workers.add(len(document.workers))
    load = Metric("workers_load", "gauge", "Processors in use by all worker processes together")
    load.add(sum(w.load for w in document.workers))
    return [info, started, workers, load]


def listener_metrics(document: NodeDocument) -> list[Metric]:
    """One series a listener."""
    table = {
        "datagrams": Metric(
            "listener_datagrams_total",
            "counter",
            "Datagrams (TCP: messages) received by a listener",
        ),
        "bytes": Metric("listener_received_bytes_total", "counter", "Payload received, in bytes"),
        "kernel_dropped": Metric(
            "listener_dropped_datagrams_total",
            "counter",
            "Datagrams lost because the socket's buffer was full: raise receive.receive_buffer, "
            "or give the node more processors",
        ),
        "buffered_bytes": Metric(
            "listener_buffered_bytes", "gauge", "Bytes in the kernel that wait to be received"
        ),
        "framing_errors": Metric(
            "listener_framing_errors_total",
            "counter",
            "TCP connections ended because what came was no IPFIX message",
        ),
        "sessions_refused": Metric(
            "listener_refused_sessions_total", "counter", "TCP connections that were not accepted"
        ),
    }
    for listener in document.listeners:
        labels = {
            "transport": listener.transport,
            "address": listener.address,
            "port": listener.port,
        }
        for name, metric in table.items():
            metric.add(getattr(listener, name), **labels)
    return list(table.values())


def journal_metrics(document: NodeDocument) -> list[Metric]:
    """One series a shard."""
    table = {
        "journal_position": Metric(
            "journal_datagrams_total", "counter", "Datagrams written to the journal of a shard"
        ),
        "journal_bytes": Metric("journal_bytes", "gauge", "Disk space of the journal of a shard"),
        "lag_datagrams": Metric(
            "journal_lag_datagrams", "gauge", "Datagrams received that are not yet stored"
        ),
        "lag_seconds": Metric(
            "journal_lag_seconds", "gauge", "Age of the oldest datagram that is not yet stored"
        ),
        "torn": Metric(
            "journal_torn_datagrams_total",
            "counter",
            "Datagrams in the journal that a crash of the machine destroyed",
        ),
        "uncounted": Metric(
            "ledger_uncounted_datagrams_total",
            "counter",
            "Datagrams that were stored but are missing from the ledger since a checkpoint was "
            "damaged",
        ),
        "templates_evicted": Metric(
            "templates_evicted_total",
            "counter",
            "Templates given up because an exporter, or all together, had too many",
        ),
        "options_evicted": Metric(
            "options_evicted_total",
            "counter",
            "Names and sampling rates from options data given up because an exporter had too many",
        ),
        "balanced": Metric(
            "ledger_balanced",
            "gauge",
            "1 while received = stored + named losses for every exporter of a shard, else 0",
        ),
    }
    for shard in document.shards:
        for name, metric in table.items():
            metric.add(
                int(v) if isinstance(v := getattr(shard, name), bool) else v, shard=shard.shard
            )
    return list(table.values())


def store_metrics(data_dir: Path) -> list[Metric]:
    """What the store has, by table, and what the disk has left."""
    records = Metric("store_records", "gauge", "Records that can be queried")
    size = Metric("store_bytes", "gauge", "Disk space of the records that can be queried")
    files = Metric("store_files", "gauge", "Files that queries read; hot ones await compaction")
    oldest = Metric(
        "store_oldest_record_time_seconds", "gauge", "Arrival of the oldest record (Unix time)"
    )
    for table in TABLES:
        found = snapshot(data_dir / "store" / table)
        records.add(sum(f.rows for f in found), table=table)
        size.add(sum(f.size for f in found), table=table)
        hot = sum(f.path.suffix == ".arrow" for f in found)
        files.add(hot, table=table, state="hot")
        files.add(len(found) - hot, table=table, state="compacted")
        if found:
            oldest.add(min(f.min_ns for f in found) / 1e9, table=table)
    metrics = [records, size, files, oldest]
    try:
        disk = os.statvfs(data_dir)
    except OSError:
        return metrics
    free = Metric("disk_free_bytes", "gauge", "Space left on the file system of the store")
    free.add(disk.f_bavail * disk.f_frsize)
    total = Metric("disk_size_bytes", "gauge", "Size of the file system of the store")
    total.add(disk.f_blocks * disk.f_frsize)
    return [*metrics, free, total]
