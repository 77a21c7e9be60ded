"""What a sender sent and when: a small file, for a batch is a few numbers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from measure.streams import I64


@dataclass(frozen=True)
class Load:
    """What is sent; datagram ``i`` of the load is datagram ``i // n`` of stream ``i % n``."""

    run: int
    protocols: tuple[str, ...]
    """The streams."""
    records: int
    """Of a datagram."""
    template_every: int
    """Datagrams of a stream from one with a template to the next."""
    source: str
    target: str
    port: int


@dataclass(frozen=True)
class SendLog:
    """A load that was sent. Arrays have an entry for each batch, which was sent in one call."""

    load: Load
    monotonic_ns: I64
    wall_ns: I64
    datagrams: I64
    errors: dict[str, int] = field(default_factory=dict)
    """Calls that failed, by the name of the error; what they did not send was sent again."""

    @cached_property
    def sent(self) -> int:
        """Datagrams that the kernel took."""
        return int(self.datagrams.sum())

    @cached_property
    def sent_monotonic_ns(self) -> I64:
        """When each datagram was sent."""
        return np.repeat(self.monotonic_ns, self.datagrams)

    @cached_property
    def sent_wall_ns(self) -> I64:
        """The same by the clock that people and nodes have."""
        return np.repeat(self.wall_ns, self.datagrams)

    def save(self, path: Path) -> None:
        """Write the file; whoever sees it sees all of it."""
        temporary = path.with_name(path.name + ".tmp")
        about = json.dumps({"load": asdict(self.load), "errors": self.errors})
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                about=np.array(about),
                monotonic_ns=self.monotonic_ns,
                wall_ns=self.wall_ns,
                datagrams=self.datagrams,
            )
        os.replace(temporary, path)

    @classmethod
    def open(cls, path: Path) -> SendLog:
        """Read a file that :meth:`save` wrote."""
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            load = about["load"]
            load["protocols"] = tuple(load["protocols"])
            times, wall, counts = (file[n] for n in ("monotonic_ns", "wall_ns", "datagrams"))
            return cls(Load(**load), times, wall, counts, about["errors"])
