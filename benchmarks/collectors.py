"""The collectors that are compared: how each is run, and what it has stored."""

from __future__ import annotations

import csv
import re
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from appliance.store.files import snapshot

RECEIVE_BUFFER = 4 << 20
NFDUMP_SECONDS = 600


class Contender(ABC):
    """A collector program, working in one directory."""

    name: ClassVar[str]
    package: ClassVar[str] = ""
    """The Debian package that has it; empty for Tandem."""
    programs: ClassVar[dict[str, str]]
    """Its program for each protocol."""
    pace: ClassVar[float] = 1.0
    """Share of the rate that it can take without losses inside."""
    end: ClassVar[signal.Signals] = signal.SIGTERM
    """What makes it store what it has, and exit."""

    def missing(self, protocol: str) -> str | None:
        """What is not installed, or None."""
        program = self.programs[protocol]
        if self.package and shutil.which(program) is None:
            return f"{program} (package {self.package})"
        return None

    @abstractmethod
    def command(self, protocol: str, port: int, directory: Path) -> list[str]:
        """What to run so that it listens on 127.0.0.1 ``port``; ``directory`` is empty."""

    @abstractmethod
    def stored(self, directory: Path) -> tuple[int, int]:
        """Flows that can be queried, and the bytes that they take on disk."""


class Tandem(Contender):
    """The collector that is here."""

    name = "tandem"
    programs: ClassVar[dict[str, str]] = dict.fromkeys(("v5", "v9", "ipfix", "sflow"), "tandem")

    def command(self, protocol: str, port: int, directory: Path) -> list[str]:
        """The node as it is by default, on one listener."""
        config = directory / "tandem.toml"
        config.write_text(
            f'data_dir = "{directory}/data"\n[[listener]]\naddress = "127.0.0.1"\nport = {port}\n'
        )
        return [sys.executable, "-m", "appliance.cli", "collect", "--config", str(config)]

    def stored(self, directory: Path) -> tuple[int, int]:
        """By the metadata of the files that a query would read."""
        files = snapshot(directory / "data" / "store" / "flows")
        return sum(f.rows for f in files), sum(f.size for f in files)


class Nfcapd(Contender):
    """nfcapd and sfcapd, storing with LZO."""

    name = "nfcapd"
    package = "nfdump"
    programs: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("v5", "v9", "ipfix"), "nfcapd"),
        "sflow": "sfcapd",
    }

    def command(self, protocol: str, port: int, directory: Path) -> list[str]:
        """One file for the whole run."""
        program = self.programs[protocol]
        options = ["-z", "-t", "86400", "-B", str(RECEIVE_BUFFER), "-w", str(directory)]
        return [program, "-b", "127.0.0.1", "-p", str(port), *options]

    def stored(self, directory: Path) -> tuple[int, int]:
        """By nfdump's own statistics of the files."""
        files = list(directory.glob("nfcapd.2*"))
        if not files:
            return 0, 0
        said = nfdump(directory, "-I")
        flows = re.search(r"^Flows: (\d+)", said, re.MULTILINE)
        return int(flows[1]) if flows else 0, sum(f.stat().st_size for f in files)


class Nfacctd(Contender):
    """pmacct's nfacctd and sfacctd with the print plug-in, which aggregates and writes CSV."""

    name = "nfacctd"
    package = "pmacct"
    programs: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("v5", "v9", "ipfix"), "nfacctd"),
        "sflow": "sfacctd",
    }
    pace = 0.25
    end = signal.SIGINT  # it does not react to SIGTERM
    keys = "src_host,dst_host,src_port,dst_port,proto,tos,tcpflags,in_iface,out_iface,flows"
    settings = """
daemonize: false
plugins: print[p]
aggregate[p]: {keys}
print_output[p]: csv
print_output_file[p]: {directory}/flows.csv
print_output_file_append[p]: true
print_refresh_time[p]: 60
print_cache_entries[p]: 65537
plugin_pipe_size[p]: 134217728
plugin_buffer_size[p]: 65536
{program}_ip: 127.0.0.1
{program}_port: {port}
{program}_pipe_size: {buffer}
"""

    def command(self, protocol: str, port: int, directory: Path) -> list[str]:
        """What it aggregates by keeps nearly every flow apart."""
        program = self.programs[protocol]
        file = directory / "pmacct.conf"
        file.write_text(
            self.settings.format(
                directory=directory,
                program=program,
                port=port,
                keys=self.keys,
                buffer=RECEIVE_BUFFER,
            )
        )
        return [program, "-f", str(file)]

    def stored(self, directory: Path) -> tuple[int, int]:
        """The sum of its column FLOWS; sFlow has samples instead of flows: its lines."""
        path = directory / "flows.csv"
        if not path.exists():
            return 0, 0
        total = 0
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                count = row.get("FLOWS") or "0"
                total += int(count) if count.isdigit() else 0
        return total, path.stat().st_size


def nfdump(directory: Path, *arguments: str) -> str:
    """What nfdump prints about all files in ``directory``."""
    command = ["nfdump", "-R", str(directory), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=NFDUMP_SECONDS, check=True
    )
    return done.stdout


CONTENDERS: tuple[Contender, ...] = (Tandem(), Nfcapd(), Nfacctd())
