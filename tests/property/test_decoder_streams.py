"""Any stream of datagrams, valid or damaged: nothing raises, and batches do not matter."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import numpy as np
import orjson
import pyarrow as pa
from hypothesis import HealthCheck, given, settings

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Status
from appliance.offline.render import MARKS, Renderer
from tests import builders
from tests.builders import VARIABLE
from tests.decoding import check, decoder, flow_rows, registry
from tests.fuzz.target import seeds, split

NOW_NS = 1_700_000_000_000_000_000
LAYOUTS = [
    [(0, 8, 4), (0, 12, 4), (0, 1, 4)],
    [(0, 27, 16), (0, 2, 8)],
    [(0, 8, 4), (0, 82, VARIABLE), (0, 7, 2)],
    [(0, 1, 8), (0, 1, 4), (0, 4, 1)],
]
OPTIONS = [[(0, 34, 4)], [(0, 10, 4), (0, 82, 8)]]
LEARNT = {
    # what options data say holds for a whole batch, and so does not come record by record
    *("sampling_rate", "sampling_source", "in_if_name", "out_if_name", "app_name"),
    *("start_ns", "end_ns"),
}


@st.composite
def sets(draw, v9):
    """A set: a template, a withdrawal, an options template, or data."""
    number = draw(st.integers(256, 258))
    kind = draw(st.sampled_from(["template", "data", "data", "data", "options", "withdrawal"]))
    layouts = LAYOUTS if not v9 else [x for x in LAYOUTS if all(f[2] != VARIABLE for f in x)]
    if kind == "template":
        return builders.template_set(number, draw(st.sampled_from(layouts)), not v9)
    if kind == "options":
        return builders.options_set(
            number, [(0, 1 if v9 else 149, 4)], draw(st.sampled_from(OPTIONS)), not v9
        )
    if kind == "withdrawal" and not v9:
        return builders.set_of(2, struct.pack(">HH", draw(st.sampled_from([2, number])), 0))
    return builders.set_of(number, draw(st.binary(max_size=80)))


@st.composite
def datagrams(draw):
    """A template-based datagram, sometimes with some octets changed or cut off."""
    v9 = draw(st.booleans())
    make = builders.v9 if v9 else builders.ipfix
    data = make(
        draw(st.lists(sets(v9), max_size=5)),
        domain=draw(st.integers(0, 1)),
        sequence=draw(st.integers(0, 50)),
    )
    return draw(damaged(data))


@st.composite
def damaged(draw, data):
    """``data``, which one time in four is not what it was."""
    if draw(st.integers(0, 3)):
        return data
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if out:
            out[draw(st.integers(0, len(out) - 1))] = draw(st.sampled_from([0, 1, 4, 127, 255]))
    return bytes(out[: draw(st.integers(0, len(out)))]) if draw(st.booleans()) else bytes(out)


any_seed = st.sampled_from([d for s in seeds() for d in split(s)]).flatmap(damaged)


def batch_of(stream):
    """A batch of (exporter, session, payload)."""
    return DatagramBatch.from_payloads(
        [p for _, _, p in stream],
        [IPV4_MAPPED_PREFIX + bytes([192, 0, 2, e]) for e, _, _ in stream],
        [NOW_NS + i for i in range(len(stream))],
        7,
        [s for _, s, _ in stream],
    )


streams = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 1), st.one_of(datagrams(), any_seed)),
    min_size=1,
    max_size=8,
)


def decode_cut(batch, cuts):
    """Rows and statuses of the batch, decoded in pieces that end at ``cuts``."""
    decoding = decoder()
    rows, status = [], []
    for first, stop in zip([0, *cuts], [*cuts, len(batch)], strict=True):
        if first < stop:
            decoded = decoding.decode(batch.select(slice(first, stop)), NOW_NS)
            check(decoded)
            rows += flow_rows(decoded)
            status += decoded.status.tolist()
    return sorted(_text(row) for row in rows), status


def _text(row):
    # a mark that no record of a batch has is no column: absent means false
    kept = {k: v for k, v in row.items() if k not in LEARNT and not (k in MARKS and v is False)}
    # the templates of lists may come later in the same batch
    kept["extra"] = [(k, v) for k, v in kept.get("extra") or () if k not in ("0.292", "0.293")]
    return repr(sorted(kept.items()))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=streams, data=st.data())
def test_how_a_stream_is_cut_into_batches_does_not_change_its_records(stream, data):
    batch = batch_of(stream)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=4), "cuts"))
    whole, whole_status = decode_cut(batch, [])
    single, single_status = decode_cut(batch, list(range(1, len(stream))))
    some, _ = decode_cut(batch, cuts)
    assert single == whole
    assert some == whole
    # what waits in one batch may be decoded at once in another
    for one, other in zip(whole_status, single_status, strict=True):
        assert one == other or Status.HELD in (one, other)


def test_a_list_is_read_with_the_template_of_its_time_not_of_the_end_of_the_batch():
    lists = [(0, 292, VARIABLE)]
    body = builders.record(lists, [b"\xff" + struct.pack(">H", 256) + bytes(range(8))])
    redefined = builders.ipfix([builders.template_set(256, [(0, 1, 8)], True)])
    first = builders.ipfix(
        [
            builders.template_set(256, [(0, 8, 4), (0, 12, 4)], True),
            builders.template_set(258, lists, True),
            builders.set_of(258, body),
        ]
    )
    again = builders.ipfix([builders.set_of(258, body)])
    batch = batch_of([(1, 0, p) for p in (first, redefined, again)])
    one, two = (dict(row["extra"])["0.292"] for row in flow_rows(decoder().decode(batch, NOW_NS)))
    assert "sourceIPv4Address" in one
    assert "octetDeltaCount" in two


def test_values_that_do_not_fit_keep_a_key_of_their_own_where_an_element_is_repeated():
    fields = [(0, 4, 4), (0, 4, 4), (61001, 7, 2), (61001, 7, 2)]
    row = bytes.fromhex("00000101000002020a0b0c0d")
    sets = [builders.template_set(256, fields, True), builders.set_of(256, row)]
    decoded = decoder().decode(batch_of([(1, 0, builders.ipfix(sets))]), NOW_NS)
    check(decoded)
    assert dict(flow_rows(decoded)[0]["extra"]) == {
        "0.4": "00000101",
        "0.4_2": "00000202",
        "61001.7": "0a0b",
        "61001.7_2": "0c0d",
    }


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(payloads=st.lists(st.one_of(any_seed, datagrams(), st.binary(max_size=200)), max_size=6))
def test_no_datagram_makes_the_decoder_or_the_json_raise(payloads):
    if not payloads:
        return
    decoded = decoder().decode(batch_of([(1, 0, p) for p in payloads]), NOW_NS)
    check(decoded)
    renderer = Renderer(registry())
    for kind, batches in (
        ("", decoded.flows),
        ("counters", decoded.counters),
        ("options", decoded.options),
    ):
        for rows in batches:
            for line in renderer.lines(rows, pa.array(np.zeros(len(rows), np.int64)), kind):
                orjson.loads(line)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(stream=streams, at=st.integers(0, 8))
def test_a_decoder_restored_from_its_dump_goes_on_as_if_nothing_had_happened(stream, at):
    stream = [(e, 0, p) for e, _, p in stream]
    batch = batch_of(stream)
    first, rest = batch.select(slice(0, at)), batch.select(slice(at, len(batch)))
    one = decoder()
    one.decode(first, NOW_NS)
    other = decoder()
    other.load(one.dump(), one.dump_held(everything=True))
    assert flow_rows(other.decode(rest, NOW_NS)) == flow_rows(one.decode(rest, NOW_NS))
