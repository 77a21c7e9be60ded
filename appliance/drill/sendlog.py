"""What a sender sent and when: a small file, for a batch is a few numbers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from appliance.drill.packed import MOST_DATAGRAMS, packed, unpacked
from appliance.drill.streams import I64

TICK_NS = 100_000
"""Of times that are handed in."""


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

    def document(self) -> dict[str, Any]:
        """In short, for a node: times to 0.1 ms, and the wall clock as the steady one shows it."""
        return {
            "load": asdict(self.load),
            "errors": self.errors,
            "begin_ns": int(self.wall_ns[0]) if len(self.wall_ns) else 0,
            "ticks": packed((self.monotonic_ns - self.monotonic_ns[:1]) // TICK_NS),
            "datagrams": packed(self.datagrams),
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """What :meth:`document` made; raises ValueError, KeyError or TypeError."""
        load = dict(document["load"])
        load["protocols"] = tuple(load["protocols"])
        since = unpacked(document["ticks"]) * TICK_NS
        datagrams = unpacked(document["datagrams"])
        if len(since) != len(datagrams) or (datagrams < 0).any() or (np.diff(since) < 0).any():
            raise ValueError("not what a sender writes")
        if datagrams.sum() > MOST_DATAGRAMS:
            raise ValueError(f"more than {MOST_DATAGRAMS} datagrams")
        begin = int(document["begin_ns"])
        return cls(Load(**load), since, begin + since, datagrams, dict(document["errors"]))

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
