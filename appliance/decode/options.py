"""What options data say about an exporter: sampling rates, and names of things with numbers.

RFC 3954, section 6; RFC 7011, section 3.4.2; RFC 5477 for packet sampling. Options records come by
the thousand at most, flow records by the million, so learning is done record by record in plain
Python, and using in vectors: unique values are looked up, rows take from the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from appliance.columns import Columns
from appliance.decode.limits import Limits
from appliance.decode.sources import SourceTable
from appliance.schema import SamplingSource

I64 = NDArray[np.int64]
Key = tuple[str, int, int | bytes]

DEFAULT, SAMPLER, SELECTOR, INTERFACE = "rate", "sampler", "selector", "interface"
RATES = (DEFAULT, SAMPLER, SELECTOR, INTERFACE)
INTERFACE_NAME, VRF_NAME, APPLICATION_NAME = "if_name", "vrf_name", "app_name"
INIT_MS = "init_ms"

V9_SCOPE_INTERFACE = -2
"""A NetFlow v9 scope of type ``t`` is numbered ``-t`` beside the elements (RFC 3954, 6.1)."""

_BY_ID = ((INTERFACE, "in_if"), (SELECTOR, "selector_id"), (SAMPLER, "sampler_id"))
"""What rates are told by, weakest first, and the column with the number."""

UNSET = -1
MAX_RATE = 0xFFFFFFFF
MAX_NAME = 255


@dataclass(slots=True)
class Defaults:
    """Sampling of each datagram's source."""

    rate: NDArray[np.uint32]
    how: NDArray[np.uint8]
    """:class:`SamplingSource`"""
    any: bool
    """Whether any rate is known."""


@dataclass(slots=True)
class OptionsState:
    """All that options data have said, by exporter; bounded, oldest first out."""

    sources: SourceTable
    limits: Limits
    config_rate: dict[int, int] = field(default_factory=dict)
    """Sampling rate from the configuration, by exporter."""
    revision: int = 0
    """Grows with every change."""
    evicted: dict[int, int] = field(default_factory=dict)
    """Entries dropped for the limit, by exporter."""
    _known: dict[int, dict[Key, int | str]] = field(default_factory=dict)
    _rate: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """``int64``: rate of each source for rows without an id; 0 unknown, UNSET not computed."""
    _init: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """``int64`` ns: when each source's uptime was 0; 0 where not known."""

    def learn(self, source: int, values: dict[int, Any], scope: dict[int, Any]) -> None:
        """Learn from one options record: values by element number, those of scopes apart."""
        everything = values | scope
        interface = _first(scope, V9_SCOPE_INTERFACE, 10, 14, 252)
        rate = _rate_of(everything)
        if rate is not None:
            if isinstance(sampler := everything.get(48), int):
                self._put(source, (SAMPLER, source, sampler), rate)
            elif isinstance(selector := everything.get(302), int):
                self._put(source, (SELECTOR, source, selector), rate)
            elif interface is not None:
                self._put(source, (INTERFACE, source, interface), rate)
            else:
                self._put(source, (DEFAULT, source, 0), rate)
        if interface is None:
            interface = _first(values, 10, 14, 252)
        name = everything.get(82) or everything.get(83)
        if interface is not None and isinstance(name, str):
            self._put(source, (INTERFACE_NAME, 0, interface), name)
        vrf = _first(everything, 234, 235)
        if vrf is not None and isinstance(name := everything.get(236), str):
            self._put(source, (VRF_NAME, 0, vrf), name)
        application = everything.get(95)
        name = everything.get(96) or everything.get(94)
        if isinstance(application, bytes) and isinstance(name, str):
            self._put(source, (APPLICATION_NAME, 0, application), name)
        if isinstance(init := everything.get(160), int) and 0 < init < 1 << 62:
            self._put(source, (INIT_MS, source, 0), init)

    def _put(self, source: int, key: Key, value: int | str) -> None:
        """Set an entry; a rate or a name that says nothing removes it."""
        exporter = self.sources.sources[source].exporter
        known = self._known.setdefault(exporter, {})
        if isinstance(value, str):
            value = value[:MAX_NAME]
        if known.get(key) == value:
            return
        if not value:
            if known.pop(key, None) is None:
                return
        else:
            if key not in known and len(known) >= self.limits.options_per_exporter:
                known.pop(next(iter(known)))
                self.evicted[exporter] = self.evicted.get(exporter, 0) + 1
            known[key] = value
        self.revision += 1
        self._forget(exporter)

    def _forget(self, exporter: int) -> None:
        self._grow()
        mine = self._exporter == exporter
        self._rate[mine] = UNSET
        self._init[mine] = UNSET

    @property
    def _exporter(self) -> I64:
        """``int64``: exporter of each source."""
        return self.sources.columns()["exporter"]

    def _grow(self) -> None:
        """Follow the table of sources."""
        have, want = len(self._rate), len(self.sources.sources)
        if have < want:
            unset = np.full(want - have, UNSET, np.int64)
            self._rate = np.concatenate([self._rate, unset])
            self._init = np.concatenate([self._init, unset])

    def prepare(self, source: I64) -> None:
        """Bring up to date what :meth:`apply` needs of the sources in ``source``."""
        self._grow()
        source = source[source >= 0]
        for number in np.unique(source[self._rate[source] == UNSET]).tolist():
            known = self._known.get(int(self._exporter[number]))
            rate, init = 0, 0
            if known:
                own = known.get((DEFAULT, number, 0))
                rate = int(own) if own else self._agreed(known, number)
                init = int(known.get((INIT_MS, number, 0), 0)) * 1_000_000
            self._rate[number] = rate
            self._init[number] = init

    def _agreed(self, known: dict[Key, int | str], source: int) -> int:
        """The rate that all samplers of a source, or else of its exporter, have in common."""
        protocol = self.sources.sources[source].protocol
        own: set[int] = set()
        all_: set[int] = set()
        for (kind, of, _), value in known.items():
            if kind in RATES and self.sources.sources[of].protocol == protocol:
                all_.add(int(value))
                if of == source:
                    own.add(int(value))
        rates = own or all_
        return rates.pop() if len(rates) == 1 else 0

    def init_ns(self, source: I64) -> I64 | None:
        """When the uptime of each row's source was 0, ns; None if not known of any."""
        self.prepare(source)
        found = self._init[source]
        return found if found.any() else None

    def defaults(self, source: I64) -> Defaults:
        """What holds for each of the sources in ``source`` where a record says nothing."""
        self.prepare(source)
        rate = self._rate[source]
        how = np.where(rate > 0, np.uint8(SamplingSource.OPTIONS), np.uint8(0))
        if self.config_rate:
            exporters, inverse = np.unique(self._exporter[source], return_inverse=True)
            rates = [self.config_rate.get(e, 0) for e in exporters.tolist()]
            config = np.asarray(rates, np.int64)[inverse]
            use = (rate == 0) & (config > 0)
            rate = np.where(use, config, rate)
            how[use] = SamplingSource.CONFIG
        return Defaults(rate.astype(np.uint32), how, bool(how.any()))

    def apply(self, rows: Columns, defaults: Defaults) -> None:
        """Set the sampling rate and its source, and the names that are known.

        ``defaults`` has an entry for each datagram.
        """
        self._sampling(rows, defaults)
        if not self._known or not len(rows):
            return
        exporter = self._exporter[rows.source]
        present = np.unique(exporter).tolist()
        kinds = {kind for e in present for kind, _, _ in self._known.get(e, ())}
        for kind, number, name in (
            (INTERFACE_NAME, "in_if", "in_if_name"),
            (INTERFACE_NAME, "out_if", "out_if_name"),
            (VRF_NAME, "in_vrf", "in_vrf_name"),
            (VRF_NAME, "out_vrf", "out_vrf_name"),
        ):
            column = rows.columns.get(number)
            if kind in kinds and column is not None and name not in rows.columns:
                self._name(rows, kind, exporter, np.asarray(column.values), name)
        if APPLICATION_NAME in kinds and "application_id" in rows.columns:
            self._application(rows, exporter)

    def _sampling(self, rows: Columns, defaults: Defaults) -> None:
        at = rows.datagram
        how = defaults.how[at]
        rate = defaults.rate[at] if defaults.any else None
        if self._known:
            by_id = self._by_id(rows)
            if by_id is not None:
                use = by_id >= 0
                rate = np.zeros(len(rows), np.uint32) if rate is None else rate
                rate[use] = by_id[use]
                how[use] = np.where(by_id[use] > 0, SamplingSource.OPTIONS, 0)
        sent = rows.columns.get("sampling_rate")
        if sent is not None:
            values = np.asarray(sent.values)
            good = values > 0 if sent.valid is None else (values > 0) & sent.valid
            said = rows.columns.pop("sampling_source", None)
            if said is not None:
                # a header is less than options, more than the configuration
                good &= how != SamplingSource.OPTIONS
            rate = np.zeros(len(rows), np.uint32) if rate is None else rate
            rate[good] = values[good]
            how[good] = SamplingSource.RECORD if said is None else np.asarray(said.values)[good]
            del rows.columns["sampling_rate"]
        if rate is not None:
            good = how > 0
            if good.any():
                rows.set("sampling_rate", rate, pa.uint32(), None if good.all() else good)
        rows.set("sampling_source", how, pa.uint8())

    def _by_id(self, rows: Columns) -> I64 | None:
        """Rates by sampler, selector or interface: 0 unknown, -1 the source's own; None: all -1."""
        present = np.unique(self._exporter[np.unique(rows.source)]).tolist()
        kinds = {kind for e in present for kind, _, _ in self._known.get(e, ())}
        found = None
        for kind, column in _BY_ID:
            if kind not in kinds or column not in rows.columns:
                continue
            number = np.asarray(rows.columns[column].values).astype(np.int64)
            pairs = pc.dictionary_encode(pa.array(rows.source << 32 | (number & 0xFFFFFFFF)))
            rates = [
                self._rate_by_id(kind, pair >> 32, pair & 0xFFFFFFFF)
                for pair in pairs.dictionary.to_pylist()
            ]
            rate = np.asarray(rates, np.int64)[pairs.indices.to_numpy()]
            found = rate if found is None else np.where(rate >= 0, rate, found)
        return found

    def _rate_by_id(self, kind: str, source: int, number: int) -> int:
        """Rate of a sampler, selector or interface of a source; -1: take the source's own."""
        exporter = int(self._exporter[source])
        known = self._known.get(exporter)
        if not known:
            return -1
        rate = known.get((kind, source, number))
        if rate is not None:
            return int(rate)
        if kind == INTERFACE:
            return -1
        # options of one domain may speak of the samplers of all (line cards of one router)
        rates = {int(value) for (k, _, i), value in known.items() if k == kind and i == number}
        if len(rates) == 1:
            return rates.pop()
        own = known.get((DEFAULT, source, 0))
        if own is not None:
            return int(own)
        return 0 if any(k == kind for k, _, _ in known) else -1

    def _name(
        self, rows: Columns, kind: str, exporter: I64, number: NDArray[Any], name: str
    ) -> None:
        pairs = pc.dictionary_encode(pa.array(exporter << 32 | number.astype(np.int64)))
        names: list[str | None] = []
        for pair in pairs.dictionary.to_pylist():
            known = self._known.get(pair >> 32, {})
            names.append(known.get((kind, 0, pair & 0xFFFFFFFF)))  # type: ignore[arg-type]
        if any(names):
            values = pa.array(names, pa.string()).take(pairs.indices)
            rows.set(name, values, pa.string())

    def _application(self, rows: Columns, exporter: I64) -> None:
        """``app_name`` by application id, where the record does not say it."""
        column = rows.columns["application_id"].values
        coded = pc.dictionary_encode(column if isinstance(column, pa.Array) else pa.array(column))
        ids = coded.dictionary.to_pylist()
        which = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        pairs = pc.dictionary_encode(pa.array(exporter << 32 | which))
        names: list[str | None] = []
        for pair in pairs.dictionary.to_pylist():
            known = self._known.get(pair >> 32, {})
            key = (APPLICATION_NAME, 0, ids[pair & 0xFFFFFFFF])
            names.append(known.get(key))  # type: ignore[arg-type]
        values = pa.array(names, pa.string()).take(pairs.indices)
        sent = rows.columns.get("app_name")
        if sent is not None:
            filled = pc.equal(sent.values, "")
            values = pc.if_else(filled, values, sent.values)
        if values.null_count < len(values):
            rows.set("app_name", values, pa.string())

    def dump(self) -> list[Any]:
        """Plain values for the checkpoint."""
        return [
            [
                exporter,
                [
                    [k, of, i.hex() if isinstance(i, bytes) else i, v]
                    for (k, of, i), v in known.items()
                ],
            ]
            for exporter, known in self._known.items()
        ]

    def load(self, dumped: list[Any]) -> None:
        """Restore what :meth:`dump` gave; the table of sources has been restored before."""
        self._known = {
            int(exporter): {
                (k, of, bytes.fromhex(i) if isinstance(i, str) else i): v for k, of, i, v in entries
            }
            for exporter, entries in dumped
        }
        self._rate = self._init = np.zeros(0, np.int64)


def _first(values: dict[int, Any], *numbers: int) -> int | None:
    for number in numbers:
        value = values.get(number)
        if isinstance(value, int):
            return value
    return None


def _rate_of(values: dict[int, Any]) -> int | None:
    """The sampling rate that a record gives in any of the known encodings; 0: it says nothing."""
    interval, space = values.get(305), values.get(306)
    size, population = values.get(309), values.get(310)
    rate: int | None = None
    for number in (34, 50):
        if isinstance(found := values.get(number), int):
            rate = rate or found
    if not rate and isinstance(size, int) and isinstance(population, int) and size:
        rate = population // size
    if (rate is None or rate <= 1) and isinstance(interval, int):
        # without a space, exporters mean "one in so many"
        one = (interval + space) // interval if isinstance(space, int) and interval else interval
        rate = max(rate or 0, one)
    return rate if rate is None or rate <= MAX_RATE else 0
