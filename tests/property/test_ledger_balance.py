"""Whatever arrives, in whatever order: every datagram and record is accounted for once."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode.limits import Limits
from appliance.ledger.ledger import Ledger
from tests import builders
from tests.decoding import decoder

FIELDS = [(0, 1, 4), (0, 2, 4)]


@st.composite
def sets(draw: st.DrawFn, ipfix: bool) -> bytes:
    """A template, data for one that may or may not be known, or rubbish."""
    number = draw(st.integers(256, 259))
    kind = draw(st.sampled_from(["template", "data", "bad template", "reserved", "rubbish"]))
    if kind == "template":
        return builders.template_set(number, FIELDS, ipfix)
    if kind == "data":
        return builders.set_of(number, struct.pack(">II", 1, 2) * draw(st.integers(0, 3)))
    if kind == "bad template":
        return builders.set_of(2 if ipfix else 0, struct.pack(">HH", number, 400))
    if kind == "reserved":
        return builders.set_of(77, bytes(8))
    return draw(st.binary(max_size=12))


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """A datagram of any protocol, perhaps cut short."""
    kind = draw(st.sampled_from(["v5", "v9", "v9", "ipfix", "ipfix", "sflow", "other"]))
    sequence = draw(st.integers(0, 30) | st.integers(2**32 - 5, 2**32 - 1))
    domain = draw(st.integers(0, 2))
    if kind == "v5":
        count = draw(st.integers(0, 3))
        payload = builders.v5([builders.v5_record()] * count, sequence=sequence)
    elif kind == "v9":
        parts = draw(st.lists(sets(False), max_size=4))
        payload = builders.v9(parts, sequence=sequence, domain=domain)
    elif kind == "ipfix":
        parts = draw(st.lists(sets(True), max_size=4))
        payload = builders.ipfix(parts, sequence=sequence, domain=domain)
    elif kind == "sflow":
        payload = builders.sflow([builders.counter_sample([])], sequence=sequence, domain=domain)
    else:
        payload = draw(st.binary(max_size=40))
    return payload[: draw(st.sampled_from([len(payload), 19, 50]))]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.tuples(datagrams(), st.integers(1, 2)), max_size=8), max_size=10),
    st.integers(0, 9),
)
def test_the_ledger_balances_after_every_batch(
    batches: list[list[tuple[bytes, int]]], restart: int
) -> None:
    limits = Limits(held_bytes_per_exporter=1500, held_ns=4)
    ledger, to = Ledger(), decoder(limits)
    received = rows = 0
    for now, batch in enumerate(batches):
        payloads = [payload for payload, _ in batch]
        addresses = [IPV4_MAPPED_PREFIX + bytes([192, 0, 2, host]) for _, host in batch]
        decoded = to.decode(DatagramBatch.from_payloads(payloads, addresses, now), now)
        ledger.add_decoded(decoded)
        received += len(batch)
        rows += sum(flows.num_rows for flows in decoded.flows)
        assert ledger.balance(pending_records=rows, journal_datagrams=received) == []
        assert ledger.total("bytes_received") == sum(
            len(p) for b in batches[: now + 1] for p, _ in b
        )
        if now == restart:
            dumped, running, state = ledger.dump(), to.dump_held(everything=True), to.dump()
            ledger, to = Ledger(), decoder(limits)
            ledger.load(dumped)
            rows = 0  # the dump belongs to a checkpoint that has stored them
            to.load(state, running, now)
    ledger.stored()
    assert ledger.balance(journal_datagrams=received) == []
