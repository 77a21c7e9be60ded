"""From a layout to columns: a plan is compiled once a layout and run once a batch.

Which column an element fills is the registry's matter, but for the few that several elements fill
together; those are here, by number (IANA's "IPFIX Information Elements").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.columns import Column, Columns
from appliance.decode.elements import REVERSE_PEN, Element, Registry, snake_case
from appliance.decode.netflow import fields as convert
from appliance.decode.netflow.layout import VARIABLE, Field, Layout
from appliance.decode.netflow.records import I64, Records
from appliance.schema import ABSTRACT_TYPES, ADDRESS, LABELS, column_type

MAX_REPEATS = 16
"""Columns of one element repeated in a template; further ones go into ``extra``."""

COUNTERS: dict[str, tuple[tuple[int, int], ...]] = {
    "bytes": ((0, 1), (0, 85), (0, 231), (0, 23)),
    "packets": ((0, 2), (0, 86), (0, 298), (0, 24)),
    "rev_bytes": ((REVERSE_PEN, 1), (REVERSE_PEN, 85), (0, 232)),
    "rev_packets": ((REVERSE_PEN, 2), (REVERSE_PEN, 86), (0, 299)),
}
"""Elements of a counter, best first."""

PREFIXES = {"src_addr": {44, 170}, "dst_addr": {45, 169}}
"""Prefix elements that stand for an address where the record has none."""

START = (
    (152, "dateTimeMilliseconds"),
    (156, "dateTimeNanoseconds"),
    (154, "dateTimeMicroseconds"),
    (150, "dateTimeSeconds"),
)
END = (
    (153, "dateTimeMilliseconds"),
    (157, "dateTimeNanoseconds"),
    (155, "dateTimeMicroseconds"),
    (151, "dateTimeSeconds"),
)
EVENT = (
    (323, "dateTimeMilliseconds"),
    (325, "dateTimeNanoseconds"),
    (324, "dateTimeMicroseconds"),
    (322, "dateTimeSeconds"),
)
START_DELTA_US, END_DELTA_US = 158, 159
START_UPTIME, END_UPTIME = 22, 21
SYSTEM_INIT_MS = 160
LABEL_STACK = range(70, 80)
IPV6_VARIANTS = {29, 30, 139, 178, 179}
"""Elements for IPv6 that share a column with one for IPv4."""
ICMP6_TYPE_CODE = 139
IP_VERSION = 60
FRAME_SECTION, IP_SECTION = 315, 313
FRAME_SIZE = 312
LISTS = {"basicList", "subTemplateList", "subTemplateMultiList"}


@dataclass(slots=True)
class Run:
    """One run of a plan: the records, what their headers say, and the columns so far."""

    records: Records
    export_ns: I64
    """``int64 (n,)``"""
    uptime: NDArray[np.uint32] | None
    """``uint32 (n,)`` ms: sysUptime of NetFlow v9, else None."""
    init_ns: I64 | None
    """``int64 (n,)``: when the exporter's uptime was 0, from options; 0 where not known."""
    out: Columns
    lists: Callable[[Records, Field], list[str | None]]
    packets: Callable[..., dict[str, Column]]
    extra: list[tuple[str, pa.Array]] = field(default_factory=list)
    ipv6: NDArray[np.bool_] | None = None
    """Rows whose IPv6 values count, where the layout has those of both families."""

    def put(self, name: str, key: str, of: Field, found: convert.Converted | None) -> None:
        """Set a column; octets that its type cannot hold go to ``extra``."""
        if found is None:
            self.extra.append((key, convert.hexadecimal(self.records, of)))
            return
        column, lost = found
        self.out.columns[name] = column
        if lost is not None:
            digits = convert.hexadecimal(self.records, of)
            kept = pa.array(np.where(lost, np.arange(len(lost)), -1), pa.int64(), mask=~lost)
            self.extra.append((key, digits.take(kept)))


Step = Callable[[Run], None]


@dataclass(slots=True)
class Plan:
    """The steps of a layout, in order."""

    steps: list[Step]

    def run(self, run: Run) -> None:
        """Fill ``run.out``."""
        for step in self.steps:
            step(run)
        if run.extra:
            run.out.columns["extra"] = Column(_map(run.extra, len(run.out)), column_type("extra"))


def _map(entries: list[tuple[str, pa.Array]], n: int) -> pa.Array:
    """The map column of ``entries``; a null value is no entry."""
    names = pa.array([key for key, _ in entries], pa.string())
    values = pa.concat_arrays([array for _, array in entries])
    k = len(entries)
    index = (np.arange(k)[None, :] * n + np.arange(n)[:, None]).ravel()
    which = np.tile(np.arange(k), n)
    counts = np.full(n, k)
    if values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)[index]
        counts = valid.reshape(n, k).sum(axis=1)
        index, which = index[valid], which[valid]
    offsets = np.zeros(n + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.MapArray.from_arrays(
        pa.array(offsets), names.take(pa.array(which)), values.take(pa.array(index))
    )


class _Compiler:
    """Takes the fields of a layout, each once, and makes steps of them."""

    def __init__(self, layout: Layout, registry: Registry) -> None:
        self.v9 = layout.protocol == 9
        self.registry = registry
        self.steps: list[Step] = []
        self.left: list[Field] = list(layout.fields)
        self.names: dict[str, int] = {}
        self.owners: dict[str, tuple[int, int]] = {}

    def has(self, number: int, pen: int = 0) -> Field | None:
        """The first field of an element that is not taken yet."""
        for f in self.left:
            if f.id == number and f.pen == pen:
                return f
        return None

    def take(self, number: int, pen: int = 0) -> Field | None:
        """Take it."""
        found = self.has(number, pen)
        if found is not None:
            self.left.remove(found)
        return found

    def claim(self, name: str, of: Field) -> None:
        """Column ``name`` is of field ``of``."""
        self.names[name] = 1
        self.owners[name] = (of.pen, of.id)

    def compile(self) -> Plan:
        self.times()
        self.addresses()
        self.counters()
        self.labels()
        self.icmp()
        self.alternatives()
        self.sampling()
        frame = self.frame()
        for f in list(self.left):
            self.plain(f)
        if frame is not None:
            self.steps.append(frame)
        return Plan(self.steps)

    def counters(self) -> None:
        for name, choices in COUNTERS.items():
            for pen, number in choices:
                f = self.take(number, pen)
                if f is None:
                    continue
                self.claim(name, f)
                self.steps.append(_unsigned(name, f))
                if pen == 0 and choices[0] == (0, choices[0][1]) and number != choices[0][1]:
                    self.steps.append(_constant(f"{name}_element", number))
                break

    def times(self) -> None:
        init = self.has(SYSTEM_INIT_MS)
        for name, absolute, delta, uptime in (
            ("start", START, START_DELTA_US, START_UPTIME),
            ("end", END, END_DELTA_US, END_UPTIME),
        ):
            column = f"{name}_ns"
            for number, abstract in absolute:
                f = self.take(number)
                if f is not None:
                    self.claim(column, f)
                    self.steps.append(_time(column, f, abstract))
                    break
            since = self.take(uptime)
            if since is not None:
                self.claim(f"{name}_uptime_ms", since)
                self.steps.append(_unsigned(f"{name}_uptime_ms", since))
            if column in self.names:
                continue
            before = self.take(delta)
            if before is not None:
                self.claim(column, before)
                self.steps.append(_before_export(column, before))
            elif since is not None:
                self.claim(column, since)
                self.steps.append(_since_start(name, init))
        for number, abstract in EVENT:
            f = self.take(number)
            if f is not None:
                self.claim("event_ns", f)
                self.steps.append(_time("event_ns", f, abstract))
                break

    def element(self, f: Field) -> Element | None:
        return self.registry.get(f.pen, f.id, v9=self.v9)

    def addresses(self) -> None:
        """Address columns: of each, the k-th IPv4 and the k-th IPv6 field belong together."""
        pairs: dict[str, tuple[list[Field], list[Field]]] = {}
        for f in self.left:
            element = self.element(f)
            if element is None or f.length == VARIABLE:
                continue
            size = {"ipv4Address": 4, "ipv6Address": 16}.get(element.type)
            if column_type(element.column) == ADDRESS and f.length == size:
                pairs.setdefault(element.column, ([], []))[size == 16].append(f)
        for name, numbers in PREFIXES.items():
            if name not in pairs:
                for f in self.left:
                    if f.pen == 0 and f.id in numbers and f.length <= 16:
                        pairs.setdefault(name, ([], []))[f.id > 100].append(f)
        both = [pairs.get(name, ([], [])) for name in ("src_addr", "dst_addr")]
        if any(v4 and v6 for v4, v6 in both):
            version = self.has(IP_VERSION)
            firsts = [(v4[0] if v4 else None, v6[0] if v6 else None) for v4, v6 in both]
            self.steps.append(_choose_family(version, firsts))
        for name, (v4, v6) in pairs.items():
            for k in range(max(len(v4), len(v6))):
                four = v4[k] if k < len(v4) else None
                six = v6[k] if k < len(v6) else None
                some = four or six
                assert some is not None
                column = name if k == 0 else f"{name}_{k + 1}"
                if k >= MAX_REPEATS:
                    break
                for used in (four, six):
                    if used is not None:
                        self.left.remove(used)
                self.claim(column, some)
                if four is None or six is None:
                    self.steps.append(_address(column, some))
                else:
                    keep = k == 0 and name in ("src_addr", "dst_addr")
                    self.steps.append(_either(column, four, six, keep))

    def alternatives(self) -> None:
        """Columns with one element for IPv4 and another for IPv6, where a record has both."""
        by_column: dict[str, list[Field]] = {}
        for f in self.left:
            element = self.element(f)
            if f.pen == 0 and element is not None:
                by_column.setdefault(element.column, []).append(f)
        for name, found in by_column.items():
            six = next((f for f in found if f.id in IPV6_VARIANTS), None)
            four = next((f for f in found if f.id not in IPV6_VARIANTS), None)
            if six is not None and four is not None:
                self.left.remove(six)
                self.left.remove(four)
                self.claim(name, four)
                self.steps.append(_variant(name, four, six))

    def icmp(self) -> None:
        """Type and code out of icmpTypeCodeIPv6, whose own column IPv4's may need."""
        both = self.has(ICMP6_TYPE_CODE)
        if both is not None and not any(self.has(n) for n in (176, 177, 178, 179)):
            self.steps.append(_icmp(both))

    def labels(self) -> None:
        stack = [f for n in LABEL_STACK if (f := self.has(n)) is not None and f.length == 3]
        if stack:
            for f in stack:
                self.left.remove(f)
            self.claim("mpls_labels", stack[0])
            self.steps.append(_labels(stack))

    def sampling(self) -> None:
        """The rate of a record that says it itself; the fields keep their own columns too."""
        interval = self.has(34) or self.has(50)
        if interval is not None:
            self.steps.append(_sampling_interval(interval))
            return
        for one, other in ((305, 306), (309, 310)):
            first, second = self.has(one), self.has(other)
            if first is not None and second is not None:
                self.steps.append(_sampling_ratio(first, second, add=one == 305))
                return

    def frame(self) -> Step | None:
        for number, protocol in ((FRAME_SECTION, 1), (IP_SECTION, 0)):
            f = self.has(number)
            if f is not None:
                size = self.take(FRAME_SIZE)
                if size is not None:
                    self.claim("frame_length", size)
                    self.steps.append(_unsigned("frame_length", size))
                return _frame(f, protocol)
        return None

    def plain(self, f: Field) -> None:
        element = self.element(f)
        key = f.key
        if element is not None and element.type not in LISTS:
            name = self.free_name(f, element)
            if name is not None:
                type_ = column_type(name)
                if type_ is None:
                    type_ = ABSTRACT_TYPES[element.type]
                self.steps.append(_plain(name, key, f, element.type, type_))
                return
        count = self.names[key] = self.names.get(key, 0) + 1
        if count > 1:
            key = f"{key}_{count}"
        if element is not None and element.type in LISTS:
            self.steps.append(_list(key, f))
        else:
            self.steps.append(_extra(key, f))

    def free_name(self, f: Field, element: Element) -> str | None:
        """A column that no other field of the layout has."""
        name = element.column
        if name in self.owners and self.owners[name] != (f.pen, f.id):
            name = snake_case(element.name)
        if name not in self.owners:
            self.claim(name, f)
            return name
        count = self.names[name] = self.names.get(name, 1) + 1
        if count > MAX_REPEATS:
            return None
        name = f"{name}_{count}"
        self.claim(name, f)
        return name


def compile_plan(layout: Layout, registry: Registry) -> Plan:
    """The plan of a layout of flow records."""
    return _Compiler(layout, registry).compile()


def _unsigned(name: str, f: Field) -> Step:
    type_ = column_type(name)

    def step(run: Run) -> None:
        run.put(name, f.key, f, convert.unsigned(run.records, f, type_))

    return step


def _constant(name: str, value: int) -> Step:
    def step(run: Run) -> None:
        values = np.full(len(run.out), value, np.uint16)
        run.out.columns[name] = Column(values, pa.uint16())

    return step


def _plain(name: str, key: str, f: Field, abstract: str, type_: pa.DataType) -> Step:
    def step(run: Run) -> None:
        run.put(name, key, f, convert.convert(run.records, f, abstract, type_))

    return step


def _extra(key: str, f: Field) -> Step:
    def step(run: Run) -> None:
        run.extra.append((key, convert.hexadecimal(run.records, f)))

    return step


def _list(key: str, f: Field) -> Step:
    def step(run: Run) -> None:
        run.extra.append((key, pa.array(run.lists(run.records, f), pa.string())))

    return step


def _time(name: str, f: Field, abstract: str) -> Step:
    def step(run: Run) -> None:
        run.put(name, f.key, f, convert.times(run.records, f, abstract))

    return step


def _before_export(name: str, f: Field) -> Step:
    """``f`` is microseconds before the export time (IE 158 and 159)."""

    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            delta = found[0].astype(np.uint64)
            good = delta < convert.MAX_US
            ns = run.export_ns - delta.astype(np.int64) * 1000
            run.out.columns[name] = Column(ns, pa.int64(), good)

    return step


def _since_start(name: str, init: Field | None) -> Step:
    """Time of a switched time in ms since the exporter started, which may have wrapped."""

    def step(run: Run) -> None:
        uptime = run.out.columns.get(f"{name}_uptime_ms")
        if uptime is None:
            return
        switched = np.asarray(uptime.values)
        good = uptime.valid
        if run.uptime is not None:
            age = (run.uptime - switched).view(np.int32)
            ns = run.export_ns - age.astype(np.int64) * 1_000_000
            behind = run.uptime < switched
            if behind.any():
                before = run.out.columns.get("uptime_lt_switched")
                if before is not None:
                    behind = behind | np.asarray(before.values)
                run.out.columns["uptime_lt_switched"] = Column(behind, pa.bool_())
        elif init is not None:
            found = convert.times(run.records, init, "dateTimeMilliseconds")
            if found is None:
                return
            began = found[0]
            ns = np.asarray(began.values) + switched.astype(np.int64) * 1_000_000
            good = began.valid if good is None else good & np.asarray(began.valid)
        elif run.init_ns is not None:
            ns = run.init_ns + switched.astype(np.int64) * 1_000_000
            good = run.init_ns > 0 if good is None else good & (run.init_ns > 0)
        else:
            return
        run.out.columns[f"{name}_ns"] = Column(ns, pa.int64(), good)

    return step


def _address(name: str, f: Field) -> Step:
    prefix = f.length not in (4, 16)

    def step(run: Run) -> None:
        values = convert.address(run.records, f, prefix)
        run.put(name, f.key, f, None if values is None else (Column(values, ADDRESS), None))

    return step


def _choose_family(version: Field | None, firsts: list[tuple[Field | None, Field | None]]) -> Step:
    """Which family counts in a record with both: what the IP version says, else what is not 0."""

    def step(run: Run) -> None:
        records = run.records
        n = len(records)
        any4, any6 = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        for four, six in firsts:
            if four is not None:
                any4 |= records.octets(four).any(axis=1)
            if six is not None:
                any6 |= records.octets(six).any(axis=1)
        ipv6 = any6 & ~any4
        if version is not None and (found := convert.integers(records, version)) is not None:
            ipv6 = np.where(found[0] == 6, True, np.where(found[0] == 4, False, ipv6))
        run.ipv6 = ipv6

    return step


def _either(name: str, four: Field, six: Field, keep: bool) -> Step:
    """One address column of an IPv4 and an IPv6 field; ``keep``: the other one is kept as well."""

    def step(run: Run) -> None:
        v4 = convert.address(run.records, four, True)
        v6 = convert.address(run.records, six, True)
        assert v4 is not None
        assert v6 is not None
        ipv6 = np.asarray(v6.any(axis=1) & ~v4[:, 12:].any(axis=1))
        if run.ipv6 is not None and keep:
            ipv6 = run.ipv6
        choice = ipv6[:, None]
        run.out.columns[name] = Column(np.where(choice, v6, v4), ADDRESS)
        if keep:
            run.out.columns[f"{name}_other"] = Column(np.where(choice, v4, v6), ADDRESS)

    return step


def _variant(name: str, four: Field, six: Field) -> Step:
    type_ = column_type(name)

    def step(run: Run) -> None:
        a = convert.unsigned(run.records, four, type_)
        b = convert.unsigned(run.records, six, type_)
        if a is None or b is None:
            run.put(name, four.key, four, a)
            run.put(name, six.key, six, b)
            return
        v4, v6 = np.asarray(a[0].values), np.asarray(b[0].values)
        ipv6 = run.ipv6 if run.ipv6 is not None else v4 == 0
        run.out.columns[name] = Column(np.where(ipv6, v6, v4), type_)

    return step


def _icmp(f: Field) -> Step:
    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            both = found[0].astype(np.uint64)
            high, low = (both >> np.uint64(8)).astype(np.uint8), both.astype(np.uint8)
            run.out.columns["icmp_type"] = Column(high, pa.uint8(), run.ipv6)
            run.out.columns["icmp_code"] = Column(low, pa.uint8(), run.ipv6)

    return step


def _labels(stack: list[Field]) -> Step:
    """Label stack entries of 3 octets: 20 bits are the label (RFC 3032, section 2.1)."""

    def step(run: Run) -> None:
        n, k = len(run.out), len(stack)
        labels = np.empty((n, k), np.uint32)
        for column, f in enumerate(stack):
            octets = run.records.octets(f).astype(np.uint32)
            labels[:, column] = octets[:, 0] << 12 | octets[:, 1] << 4 | octets[:, 2] >> 4
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * np.int32(k))
        values = pa.ListArray.from_arrays(offsets, pa.array(labels.ravel()), type=LABELS)
        run.out.columns["mpls_labels"] = Column(values, LABELS)

    return step


def _set_rate(run: Run, rate: NDArray[np.uint64]) -> None:
    good = (rate > 0) & (rate <= 0xFFFFFFFF)
    if good.any():
        run.out.columns["sampling_rate"] = Column(rate.astype(np.uint32), pa.uint32(), good)


def _sampling_interval(f: Field) -> Step:
    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            _set_rate(run, found[0].astype(np.uint64))

    return step


def _sampling_ratio(first: Field, second: Field, add: bool) -> Step:
    """One in ``(first + second) / first`` (305 and 306) or ``second / first`` (309 and 310)."""

    def step(run: Run) -> None:
        a = convert.integers(run.records, first)
        b = convert.integers(run.records, second)
        if a is None or b is None:
            return
        chosen = a[0].astype(np.uint64)
        whole = b[0].astype(np.uint64) + (chosen if add else np.uint64(0))
        _set_rate(run, np.where(chosen > 0, whole // np.maximum(chosen, np.uint64(1)), 0))

    return step


def _frame(f: Field, protocol: int) -> Step:
    """Read the packet in a frame or IP header section; what the record says itself stays."""

    def step(run: Run) -> None:
        records = run.records
        if f.length == VARIABLE:
            buffer = records.buffer
            offset, length = records.values[f.segment]
        else:
            data = records.runs[f.segment]
            buffer = data.ravel()
            offset = np.arange(len(records), dtype=np.int64) * data.shape[1] + f.offset
            length = np.full(len(records), f.length, np.int64)
        if protocol:
            kind = np.full(len(records), protocol)
        else:
            # an IP header's first bits are its version; 11 and 12 are IPv4 and IPv6
            some = length > 0
            kind = np.zeros(len(records), np.int64)
            kind[some] = (buffer[offset[some]] >> 4 == 6) + 11
        for name, column in run.packets(buffer, offset, length, kind).items():
            run.out.columns.setdefault(name, column)
        run.out.columns["from_frame"] = Column(length > 0, pa.bool_())

    return step
