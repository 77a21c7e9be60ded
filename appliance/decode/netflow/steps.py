"""The steps of a plan: each makes columns of one field, or of a few that belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.columns import Column, Columns
from appliance.decode.netflow import fields as convert
from appliance.decode.netflow.layout import VARIABLE, Field
from appliance.decode.netflow.records import I64, Records
from appliance.schema import ADDRESS, LABELS, column_type


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


def extra_map(entries: list[tuple[str, pa.Array]], n: int) -> pa.Array:
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


def _direct(name: str, f: Field, type_: pa.DataType) -> Step | None:
    """An integer that its column always holds: one pass, and nothing to ask of it."""
    dtype = np.dtype(type_.to_pandas_dtype())
    if f.length not in (1, 2, 4, 8) or f.length > dtype.itemsize:
        return None
    sent = np.dtype(f">u{f.length}")

    def step(run: Run) -> None:
        run.out.columns[name] = Column(run.records.view(f, sent).astype(dtype), type_)

    return step


def unsigned(name: str, f: Field) -> Step:
    """Canonical column ``name`` of an unsigned integer."""
    type_ = column_type(name)

    def step(run: Run) -> None:
        run.put(name, f.key, f, convert.unsigned(run.records, f, type_))

    return _direct(name, f, type_) or step


def constant(name: str, value: int) -> Step:
    """The same number in every row."""

    def step(run: Run) -> None:
        values = np.full(len(run.out), value, np.uint16)
        run.out.columns[name] = Column(values, pa.uint16())

    return step


def plain(name: str, key: str, f: Field, abstract: str, type_: pa.DataType) -> Step:
    """Column ``name`` of an element of abstract type ``abstract``."""

    def step(run: Run) -> None:
        run.put(name, key, f, convert.convert(run.records, f, abstract, type_))

    integer = abstract.startswith("unsigned") or abstract == "macAddress"
    return (_direct(name, f, type_) if integer else None) or step


def octets(key: str, f: Field) -> Step:
    """An entry of ``extra``: the octets as they are."""

    def step(run: Run) -> None:
        run.extra.append((key, convert.hexadecimal(run.records, f)))

    return step


def list_texts(key: str, f: Field) -> Step:
    """An entry of ``extra``: structured data as JSON text."""

    def step(run: Run) -> None:
        run.extra.append((key, pa.array(run.lists(run.records, f), pa.string())))

    return step


def time_column(name: str, f: Field, abstract: str) -> Step:
    """A point in time."""

    def step(run: Run) -> None:
        run.put(name, f.key, f, convert.times(run.records, f, abstract))

    return step


def before_export(name: str, f: Field) -> Step:
    """``f`` is microseconds before the export time (IE 158 and 159)."""

    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            delta = found[0].astype(np.uint64)
            good = delta < convert.MAX_US
            ns = run.export_ns - delta.astype(np.int64) * 1000
            run.out.columns[name] = Column(ns, pa.int64(), good)

    return step


def since_start(name: str, init: Field | None) -> Step:
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
                run.out.columns["uptime_lt_switched"] = Column(behind, pa.bool_(), behind)
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


def address(name: str, f: Field) -> Step:
    """An address column of one field."""
    prefix = f.length not in (4, 16)

    def step(run: Run) -> None:
        values = convert.address(run.records, f, prefix)
        run.put(name, f.key, f, None if values is None else (Column(values, ADDRESS), None))

    return step


def choose_family(version: Field | None, firsts: list[tuple[Field | None, Field | None]]) -> Step:
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


def either(name: str, four: Field, six: Field, keep: bool) -> Step:
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


def variant(name: str, four: Field, six: Field) -> Step:
    """One column of an element for IPv4 and one for IPv6, by the family that counts."""
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


def icmp(f: Field) -> Step:
    """``icmp_type`` and ``icmp_code`` of an ICMPv6 type and code in one number."""

    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            both = found[0].astype(np.uint64)
            high, low = (both >> np.uint64(8)).astype(np.uint8), both.astype(np.uint8)
            run.out.columns["icmp_type"] = Column(high, pa.uint8(), run.ipv6)
            run.out.columns["icmp_code"] = Column(low, pa.uint8(), run.ipv6)

    return step


def labels(stack: list[Field]) -> Step:
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


def sampling_interval(f: Field) -> Step:
    """The rate is the field, if that is not 0."""

    def step(run: Run) -> None:
        found = convert.integers(run.records, f)
        if found is not None:
            _set_rate(run, found[0].astype(np.uint64))

    return step


def sampling_ratio(first: Field, second: Field, add: bool) -> Step:
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


def frame(f: Field, protocol: int) -> Step:
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
