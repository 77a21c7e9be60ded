"""The table of subcommands: where each is, and its line in the help. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A subcommand: ``module:attribute`` of its click command, and its line in the help."""

    where: str
    help: str


def _own(name: str, help_: str) -> Entry:
    return Entry(f"appliance.cli.{name}:{name}", help_)


SECTIONS: dict[str, dict[str, Entry]] = {
    "Collect": {
        "run": _own("run", "Collector, API and a live view on this machine, as an ordinary user."),
        "collect": _own("collect", "The collector alone, in the foreground."),
        "watch": _own("watch", "The live view of a collector that runs."),
        "health": _own("health", "Prove that the collector works, and tell keepalived."),
        "config": _own(
            "config", "Check a configuration file; see and change settings of all nodes."
        ),
    },
    "Cluster": {
        "status": _own("status", "The cluster on one screen: nodes, VIPs, problems."),
        "switchover": _own("switchover", "Move a VIP to another node."),
        "drill": _own("drill", "Deliberate failovers under a load, measured."),
        "drain": _own("drain", "Keep a node from holding VIPs."),
        "pause": _own("pause", "Let nothing be begun through the API."),
        "token": _own("token", "Tokens of the API: who may do what."),
        "audit": _own("audit", "Who changed what, on all nodes."),
    },
    "Ask": {
        "top": _own("top", "Who or what has most of the traffic."),
        "flows": _own("flows", "Single flow records, newest first."),
        "series": _own("series", "Traffic over time."),
        "interfaces": _own("interfaces", "Bandwidth of interfaces: mean, 95th percentile, peak."),
        "sql": _own("sql", "Any question, in SQL."),
    },
    "Account": {
        "exporters": _own("exporters", "Who exports: last record, rates, sampling."),
        "ledger": _own("ledger", "Received = stored + named losses, for each exporter."),
        "templates": _own("templates", "The templates that exporters have sent."),
    },
    "Files": {
        "decode": _own("decode", "Captures as JSON, a flow record a line."),
        "replay": _own("replay", "Send a capture's datagrams to a collector."),
    },
}
