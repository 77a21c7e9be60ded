"""sFlow version 5 datagrams: headers, samples, records, all datagrams of a batch in step."""

from __future__ import annotations

import numpy as np

from appliance.columns import Columns
from appliance.decode.context import DecodeContext, Status
from appliance.decode.packet.frames import I64, U8, block, words
from appliance.decode.sflow.counters import COUNTER_FORMATS
from appliance.decode.sflow.flows import flow_columns
from appliance.decode.sflow.samples import (
    COUNTER_KINDS,
    FLOW_KINDS,
    Heads,
    read_heads,
    sort,
)
from appliance.decode.sflow.table import Table, format_set, known, standard_formats
from appliance.decode.sflow.walk import Units, walk
from appliance.decode.sources import SourceTable
from appliance.schema import CANONICAL, ExportProtocol, FlowKind

MAX_SAMPLES = 1024
"""Samples of one datagram; the smallest useful one takes 12 bytes, the usual one over 100."""
MAX_RECORDS = 128
"""Records of one sample."""

_V4_HEADER, _V6_HEADER = 28, 40
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
_COUNTERS_KNOWN = format_set(*COUNTER_FORMATS)


def decode(ctx: DecodeContext, index: I64, sources: SourceTable) -> None:
    """Decode the sFlow version 5 datagrams ``index`` (``int64``, ascending).

    The observation domain is the sub-agent's number; sequence numbers count datagrams. Samples of
    other enterprises and of unknown kinds are passed over by their length.
    """
    index, header, size = _headers(ctx, index)
    if not len(index):
        return
    buffer = ctx.batch.buffer
    start = ctx.batch.offset[index]
    end = start + ctx.batch.length[index]
    # domain, sequence, uptime and number of samples end the header, whatever its length
    tail = block(buffer, start + size - 16, 16).view(">u4").astype(np.int64)
    ctx.source[index] = sources.intern(ctx.exporter[index], ExportProtocol.SFLOW_V5, tail[:, 0])
    ctx.sequence[index] = tail[:, 1]
    ctx.sequence_units[index] = 1
    samples = walk(buffer, start + size, end, tail[:, 3].astype(np.uint32), MAX_SAMPLES)
    _complain(ctx, samples, index, start, "sample")

    four = words(header, 4, ">u4") == 1
    agent = header[:, 8:24].copy()
    agent[four, :12] = _MAPPED
    agent[four, 12:] = header[four, 8:12]
    sorted_ = sort(samples)
    if sorted_.short.any():
        short = samples.select(sorted_.short)
        where = short.start - start[short.owner]
        ctx.mark(
            index[short.owner], Status.MALFORMED_DATA, where, "a sample is shorter than its head"
        )
    for kinds, mine in ((FLOW_KINDS, sorted_.flows), (COUNTER_KINDS, sorted_.counters)):
        if not mine.any():
            continue
        chosen = samples.select(mine)
        heads = read_heads(buffer, chosen, kinds)
        records = walk(buffer, heads.records, chosen.end, heads.declared, MAX_RECORDS)
        datagram = index[chosen.owner]
        _complain(ctx, records, datagram, start[chosen.owner], "record")
        agents = agent.take(chosen.owner, axis=0)
        if kinds is FLOW_KINDS:
            ctx.flows.append(flow_columns(ctx, datagram, agents, chosen, heads, records))
            ctx.records += np.bincount(datagram, minlength=len(ctx.records))
        else:
            ctx.counters.append(_counter_columns(ctx, datagram, agents, heads, records))


def _headers(ctx: DecodeContext, index: I64) -> tuple[I64, U8, I64]:
    """Check the datagrams' headers; those that have one, its first 24 bytes, and its length."""
    length = ctx.batch.length[index]
    header = block(ctx.batch.buffer, ctx.batch.offset[index], 24)
    kind = words(header, 4, ">u4")
    size = np.where(kind == 1, _V4_HEADER, np.where(kind == 2, _V6_HEADER, 0))
    size[length < _V4_HEADER] = _V6_HEADER
    good = (size > 0) & (length >= size)
    if good.all():
        return index, header, size
    strange = size == 0
    ctx.mark(index[strange], Status.MALFORMED_HEADER, 4, "no IPv4 or IPv6 agent address")
    short = ~good & ~strange
    ctx.mark(index[short], Status.MALFORMED_HEADER, length[short], "too short for its header")
    return index[good], header[good], size[good]


def _complain(ctx: DecodeContext, units: Units, datagram: I64, start: I64, what: str) -> None:
    """Mark datagrams of which the samples, or the samples' records, are not as declared."""
    for wrong, status, detail in (
        (units.missing, Status.MALFORMED_DATA, f"fewer {what}s than declared"),
        (units.lying, Status.MALFORMED_LENGTH, f"a {what} is longer than what it is in"),
        (units.over, Status.OVER_LIMIT, f"too many {what}s"),
    ):
        if wrong.any():
            ctx.mark(datagram[wrong], status, units.stop[wrong] - start[wrong], detail)


def _counter_columns(
    ctx: DecodeContext, datagram: I64, agent: U8, heads: Heads, records: Units
) -> Columns:
    """Rows of the counter samples: all of a sample's records are in one row."""
    buffer = ctx.batch.buffer
    table = Table(len(datagram))
    table.set("agent", agent)
    table.set("kind", np.full(table.n, FlowKind.COUNTER_SAMPLE, np.uint8))
    for name, (values, valid) in heads.fields.items():
        table.add(name, values, CANONICAL[name], valid, None)
    table.formats(records)
    for number in standard_formats(records):
        if number in COUNTER_FORMATS:
            table.read(buffer, COUNTER_FORMATS[number], records, records.format == number)
    table.keep(buffer, records, ~known(records, _COUNTERS_KNOWN))
    table.complain(ctx, records, datagram)
    return Columns(datagram, ctx.source[datagram], table.columns)
