"""Flow and discard samples as flow records: one row a sample."""

from __future__ import annotations

import numpy as np

from appliance.columns import Columns
from appliance.decode.context import DecodeContext
from appliance.decode.packet import decode_packets
from appliance.decode.packet.frames import I64, U8, block
from appliance.decode.sflow.formats import (
    FLOW_FORMATS,
    PACKED_ETHERNET,
    PACKED_ETHERNET_SIZE,
    RAW_HEADER,
    SAMPLED_ETHERNET,
    SAMPLED_IP,
)
from appliance.decode.sflow.samples import DISCARD, EXPANDED_FLOW, Heads
from appliance.decode.sflow.table import (
    Table,
    chosen_rows,
    first_of_each,
    format_set,
    known,
    standard_formats,
)
from appliance.decode.sflow.walk import Units
from appliance.schema import CANONICAL, FlowKind, SamplingSource

_KNOWN = format_set(RAW_HEADER, *FLOW_FORMATS)
_KIND = np.full(DISCARD + 1, FlowKind.FLOW_SAMPLE, np.uint8)
_KIND[DISCARD] = FlowKind.DISCARD_SAMPLE
_SAMPLING = np.array([SamplingSource.UNKNOWN, SamplingSource.HEADER], np.uint8)
_RAW_HEAD = 16
"""Bytes of a raw header record before the header itself."""


def flow_columns(
    ctx: DecodeContext, datagram: I64, agent: U8, samples: Units, heads: Heads, records: Units
) -> Columns:
    """Rows of the ``n`` samples; ``datagram`` (``int64 (n,)``), ``agent`` (``uint8 (n, 16)``)."""
    buffer = ctx.batch.buffer
    table = Table(len(samples))
    _heads(table, agent, samples, heads)
    table.formats(records)
    for number in standard_formats(records):
        mask = records.format == number
        if number == RAW_HEADER:
            _raw_headers(buffer, table, records, mask)
        elif number == SAMPLED_ETHERNET:
            packed = records.end - records.start == PACKED_ETHERNET_SIZE
            table.read(buffer, FLOW_FORMATS[number], records, mask & ~packed)
            table.read(buffer, PACKED_ETHERNET, records, mask & packed)
        elif number in FLOW_FORMATS:
            rows = table.read(buffer, FLOW_FORMATS[number], records, mask)
            if number in SAMPLED_IP:
                version = np.full(table.n, SAMPLED_IP[number], np.uint8)
                version = version if rows is None else version[rows]
                table.add("ip_version", version, CANONICAL["ip_version"], None, rows)
    table.keep(buffer, records, ~known(records, _KNOWN))
    _traffic(table, samples)
    table.complain(ctx, records, datagram)
    return Columns(datagram, ctx.source[datagram], table.columns)


def _heads(table: Table, agent: U8, samples: Units, heads: Heads) -> None:
    fields = heads.fields
    table.set("agent", agent)
    table.set("kind", _KIND[samples.format])
    if "sampling_rate" in fields:
        rate, valid = fields.pop("sampling_rate")
        # a rate of 0 says nothing, and a discard is not a sample of anything
        table.set("sampling_rate", rate, rate > 0)
        table.set("sampling_source", _SAMPLING[(rate > 0).view(np.uint8)], valid)
    if "in_if_format" in fields:
        # in compact samples it has no meaning, and is 0 but in error
        said = (samples.format == EXPANDED_FLOW) | (fields["in_if_format"][0] > 0)
        fields["in_if_format"] = fields["in_if_format"][0], said
    for name, (values, valid) in fields.items():
        type_ = CANONICAL[name]
        dtype = np.dtype(type_.to_pandas_dtype())
        table.add(name, values.astype(dtype, copy=False), type_, valid, None)


def _raw_headers(buffer: U8, table: Table, records: Units, mask: np.ndarray) -> None:
    """Format 1: the head of the packet as it was sampled."""
    chosen = first_of_each(records, np.flatnonzero(mask))
    whole = records.end[chosen] - records.start[chosen] >= _RAW_HEAD
    if not whole.all():
        table.lies.append(chosen[~whole])
        chosen = chosen[whole]
    rows = chosen_rows(records, chosen, table.n)
    start = records.start[chosen] + _RAW_HEAD
    head = block(buffer, start - _RAW_HEAD, _RAW_HEAD).view(">u4").astype(np.uint32)
    names = ("header_protocol", "frame_length", "stripped", "header_length")
    for i, name in enumerate(names):
        table.add(name, np.ascontiguousarray(head[:, i]), CANONICAL[name], None, rows)
    room = records.end[chosen] - start
    captured = np.minimum(head[:, 3].astype(np.int64), room)
    if (head[:, 3] > room).any():
        table.lies.append(chosen[head[:, 3] > room])
    columns = decode_packets(buffer, start, captured, head[:, 0])
    for name, column in columns.items():
        table.add(name, column.values, column.type, column.valid, rows)


def _traffic(table: Table, samples: Units) -> None:
    """``bytes`` and ``packets`` as queries count them: a flow sample is one packet of traffic.

    The frame's length where it is known, else that of the IP packet; to be scaled by the sampling
    rate. Discards have neither, since the packets are in the flow samples' share of the traffic.
    """
    sampled = samples.format != DISCARD
    if not sampled.any():
        return
    table.set("packets", np.ones(table.n, np.uint64), sampled)
    for name in ("frame_length", "ip_len"):
        column = table.columns.get(name)
        if column is not None:
            valid = sampled if column.valid is None else sampled & column.valid
            table.set("bytes", column.values.astype(np.uint64), valid)
