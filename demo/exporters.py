"""Exporters from Debian: softflowd and pmacctd, and how to call them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOFTFLOWD_VERSIONS = {"NetFlow v5": "5", "NetFlow v9": "9", "IPFIX": "10"}


@dataclass(frozen=True, slots=True)
class Exporter:
    """One exporter of the demo, and the collector's port that it sends to."""

    program: str
    protocol: str
    port: int

    def command(self, interface: str, collector: str, folder: Path) -> list[str]:
        """The command line; ``folder`` is for files that only this exporter uses."""
        if self.program == "softflowd":
            return softflowd(
                self.protocol, f"{collector}:{self.port}", folder, ["-N", "-i", interface]
            )
        config = folder / "pmacctd.conf"
        config.write_text(_pmacctd(self, interface, f"{collector}:{self.port}"))
        return ["pmacctd", "-f", str(config)]


EXPORTERS = (
    Exporter("softflowd", "NetFlow v9", 2055),
    Exporter("softflowd", "IPFIX", 4739),
    Exporter("softflowd", "NetFlow v5", 9995),
    Exporter("pmacctd", "NetFlow v9", 2055),
    Exporter("pmacctd", "sFlow", 6343),
)


def softflowd(protocol: str, collector: str, folder: Path, source: list[str]) -> list[str]:
    """Call softflowd to read ``source`` (its ``-i`` or ``-r``), with flows of a few seconds."""
    timeouts = {"maxlife": 10, "tcp": 10, "tcp.fin": 2, "tcp.rst": 2, "udp": 5, "expint": 2}
    return [
        *("softflowd", "-d", "-v", SOFTFLOWD_VERSIONS[protocol], "-A", "milli", "-n", collector),
        *("-p", str(folder / "softflowd.pid"), "-c", str(folder / "softflowd.ctl")),
        *(word for name, value in timeouts.items() for word in ("-t", f"{name}={value}")),
        *source,
    ]


def _pmacctd(exporter: Exporter, interface: str, collector: str) -> str:
    """A configuration of pmacctd with its exporting plug-in."""
    common = f"daemonize: false\npcap_interface: {interface}\n"
    if exporter.protocol == "sFlow":
        return common + f"plugins: sfprobe[demo]\nsfprobe_receiver: {collector}\nsampling_rate: 8\n"
    timeouts = "tcp=10:tcp.fin=2:tcp.rst=2:udp=5:maxlife=10:expint=2"
    return (
        common
        + f"plugins: nfprobe[demo]\nnfprobe_receiver: {collector}\nnfprobe_version: 9\n"
        + f"nfprobe_timeouts: {timeouts}\n"
        + "aggregate: src_host, dst_host, src_port, dst_port, proto, tos\n"
    )
