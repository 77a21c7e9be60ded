"""The ledger: what is counted for whom, what moves, and what must balance."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoded, Decoder
from appliance.decode.context import Status
from appliance.decode.limits import Limits
from appliance.ledger.counters import BY_STATUS, COUNTERS, DISPOSITIONS, NUMBER
from appliance.ledger.ledger import Ledger, merge
from tests import builders
from tests.decoding import decoder

FIELDS = [(0, 1, 4), (0, 2, 4)]
RECORD = struct.pack(">II", 1000, 10)
SECOND = 1_000_000_000


def decoded(
    source: list[int],
    status: list[int] | None = None,
    records: list[int] | None = None,
    **more: Any,
) -> Decoded:
    """What a decoder could have given: one datagram of 100 octets for each of ``source``."""
    n = len(source)
    given: dict[str, Any] = {
        "flows": [],
        "flow_datagram": [],
        "counters": [],
        "counter_datagram": [],
        "options": [],
        "options_records": [],
        "errors": [],
        "status": np.array(status or [0] * n, np.uint8),
        "exporter": np.array(source, np.int64),
        "source": np.array(source, np.int64),
        "length": np.full(n, 100),
        "export_ns": np.zeros(n, np.int64),
        "sequence": np.full(n, -1),
        "sequence_units": np.full(n, -1),
        "records": np.array(records or [0] * n, np.int64),
    }
    return Decoded(**(given | more))


def row(ledger: Ledger, source: int = 0) -> dict[str, int]:
    """The counters of one source that are not 0."""
    values = ledger.counts[source].tolist()
    return {c.name: v for c, v in zip(COUNTERS, values, strict=True) if v}


def feed(ledger: Ledger, to: Decoder, *payloads: bytes, at: int = 0) -> None:
    """Decode ``payloads`` as one batch that arrives ``at`` seconds, and count it."""
    batch = DatagramBatch.from_payloads(list(payloads), received_ns=at * SECOND)
    ledger.add_decoded(to.decode(batch, at * SECOND))


def data(number: int = 256, records: int = 1, sequence: int = 0) -> bytes:
    return builders.v9([builders.set_of(number, RECORD * records)], sequence=sequence)


def template(number: int = 256, sequence: int = 0) -> bytes:
    return builders.v9([builders.template_set(number, FIELDS, ipfix=False)], sequence=sequence)


def test_every_status_has_one_counter_and_every_counter_a_help_text() -> None:
    assert set(BY_STATUS) == set(Status)
    assert len(NUMBER) == len(COUNTERS)
    assert all(c.help and not c.help.endswith(".") for c in COUNTERS)
    assert {COUNTERS[i].unit for i in DISPOSITIONS} == {"datagrams"}


def test_datagrams_bytes_and_records_are_counted_for_their_source() -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0, 2, 0], records=[5, 7, 1]))
    ledger.add_decoded(decoded([70], [Status.UNKNOWN_VERSION]))
    assert row(ledger, 0) == {
        "datagrams_received": 2,
        "bytes_received": 200,
        "datagrams_decoded": 2,
        "records_decoded": 6,
    }
    assert row(ledger, 1) == {}
    assert row(ledger, 2)["records_decoded"] == 7
    assert row(ledger, 70)["datagrams_unknown_version"] == 1
    assert ledger.total("datagrams_received") == 4
    assert ledger.balance(pending_records=13) == []


@pytest.mark.parametrize("status", list(Status))
def test_each_status_is_a_disposition_that_balances(status: Status) -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0], [status]))
    assert ledger.balance() == []
    counter = COUNTERS[BY_STATUS[status]]
    assert row(ledger)[counter.name] == 1
    assert counter.disposition


def test_a_datagram_without_disposition_is_an_imbalance_of_its_source() -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0, 3]))
    ledger.add("datagrams_received", 3)
    (found,) = ledger.balance()
    assert (found.source, found.expected, found.found) == (3, 2, 1)
    assert "source 3" in str(found)


def test_a_datagram_that_the_journal_alone_has_seen_is_an_imbalance() -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0]))
    assert ledger.balance(journal_datagrams=1) == []
    (found,) = ledger.balance(journal_datagrams=2)
    assert (found.source, found.expected, found.found) == (None, 2, 1)


def test_records_are_pending_until_they_are_stored_or_dropped() -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0, 1], records=[10, 4]))
    ledger.add("records_dropped", 1, 1)
    assert ledger.balance(pending_records=13) == []
    assert ledger.balance() != []
    ledger.stored()
    assert ledger.balance() == []
    assert row(ledger, 1)["records_stored"] == 3
    ledger.add_decoded(decoded([0], records=[2]))
    ledger.stored()
    assert row(ledger, 0)["records_stored"] == 12


def test_a_held_datagram_becomes_a_decoded_one_with_its_records() -> None:
    ledger, to = Ledger(), decoder()
    feed(ledger, to, data(records=3, sequence=0), data(300, sequence=1))
    assert row(ledger)["datagrams_held"] == 2
    feed(ledger, to, template(sequence=2))
    assert row(ledger)["datagrams_held"] == 1
    assert row(ledger)["datagrams_decoded"] == 2
    assert row(ledger)["records_decoded"] == 3
    assert "sequence_lost" not in row(ledger)
    assert ledger.balance(pending_records=3) == []


def test_held_datagrams_that_expire_or_make_room_are_named_losses() -> None:
    limits = Limits(held_bytes_per_exporter=1000, held_ns=10 * SECOND)
    ledger, to = Ledger(), decoder(limits)
    feed(ledger, to, *[data(records=3)] * 20, at=100)
    evicted = row(ledger)["datagrams_evicted"]
    assert 0 < evicted < 20
    assert row(ledger)["datagrams_held"] == 20 - evicted
    feed(ledger, to, template(400), at=111)
    assert row(ledger)["datagrams_expired"] == 20 - evicted
    assert "datagrams_held" not in row(ledger)
    assert ledger.balance() == []


def test_a_malformed_datagram_that_also_waits_is_counted_once() -> None:
    ledger, to = Ledger(), decoder()
    broken = builders.set_of(0, struct.pack(">HH", 5, 1))  # a template id below 256
    feed(ledger, to, builders.v9([builders.set_of(256, RECORD), broken]))
    assert row(ledger)["datagrams_malformed_template"] == 1
    feed(ledger, to, template())
    assert row(ledger)["records_decoded"] == 1
    assert ledger.balance(pending_records=1) == []


def test_sflow_counter_samples_and_options_data_are_counted() -> None:
    ledger, to = Ledger(), decoder()
    samples = [builders.counter_sample([]) for _ in range(3)]
    feed(ledger, to, builders.sflow(samples))
    options = builders.options_set(300, [(0, 1, 4)], [(0, 34, 4)], ipfix=False)
    values = builders.set_of(300, struct.pack(">II", 1, 100) * 2)
    feed(ledger, to, builders.v9([options, values]))
    assert row(ledger, 0)["counters_decoded"] == 3
    assert row(ledger, 1)["options_decoded"] == 2


def test_sequence_gaps_are_counted_in_the_protocols_own_unit() -> None:
    ledger, to = Ledger(), decoder()
    flow = builders.v5_record()
    feed(ledger, to, builders.v5([flow] * 3, sequence=0), builders.v5([flow], sequence=10))
    feed(ledger, to, template(sequence=0), data(sequence=4), data(sequence=2))
    assert row(ledger, 0)["sequence_lost"] == 7
    assert row(ledger, 1)["sequence_lost"] == 2
    assert row(ledger, 1)["sequence_reordered"] == 1


def test_a_dump_restores_counters_and_numbering() -> None:
    ledger, to = Ledger(), decoder()
    feed(ledger, to, template(sequence=5), data(sequence=6, records=4))
    ledger.add("bytes_received", 0, 2**40)
    ledger.add("sequence_lost", 0, -3)
    again = Ledger()
    again.load(ledger.dump())
    ledger.stored()
    assert np.array_equal(again.counts, ledger.counts)
    feed(again, to, data(sequence=9))
    assert row(again)["sequence_lost"] == -1
    assert again.balance(pending_records=1) == []


def test_a_dump_says_stored_of_what_its_checkpoint_makes_durable() -> None:
    ledger = Ledger()
    ledger.add_decoded(decoded([0, 1], records=[10, 4]))
    ledger.add("records_dropped", 1, 1)
    durable = Ledger()
    durable.load(ledger.dump())
    assert durable.balance() == []
    # should the checkpoint fail, they are still pending
    assert ledger.balance(pending_records=13) == []


def test_an_empty_ledger_survives_a_dump() -> None:
    ledger = Ledger()
    ledger.load(Ledger().dump())
    assert len(ledger) == 0
    assert ledger.balance() == []


def test_five_thousand_sources_dump_into_little() -> None:
    ledger = Ledger()
    chance = np.random.default_rng(7)
    source = np.repeat(np.arange(5000), 4)
    sequence = np.tile([10, 11, 13, 14], 5000)
    one = decoded(
        source.tolist(),
        records=chance.integers(0, 40, len(source)).tolist(),
        sequence=sequence,
        sequence_units=np.ones(len(source), np.int64),
    )
    ledger.add_decoded(one)
    assert ledger.total("sequence_lost") == 5000
    assert len(ledger.dump()) < 300_000


def test_the_table_names_exporter_protocol_and_domain() -> None:
    ledger, to = Ledger(), decoder()
    six = bytes.fromhex("20010db8000000000000000000000001")
    four = IPV4_MAPPED_PREFIX + bytes([192, 0, 2, 1])
    batch = DatagramBatch.from_payloads(
        [builders.v9([], domain=7), builders.v5(), b"????"], [six, four, four]
    )
    ledger.add_decoded(to.decode(batch, 0))
    rows = ledger.table(to.sources).to_pylist()
    assert sorted((r["exporter"], r["protocol"], r["domain"]) for r in rows) == [
        ("192.0.2.1", "NETFLOW_V5", 0),
        ("192.0.2.1", "UNKNOWN", 0),
        ("2001:db8::1", "NETFLOW_V9", 7),
    ]
    assert [r["datagrams_received"] for r in rows] == [1, 1, 1]


def test_tables_of_shards_are_added_by_exporter_protocol_and_domain() -> None:
    tables = []
    for count in (1, 2):
        ledger, to = Ledger(), decoder()
        feed(ledger, to, *[builders.v5()] * count)
        feed(ledger, to, *[builders.v9([], domain=count)] * count)
        tables.append(ledger.table(to.sources))
    rows = merge(tables).to_pylist()
    assert [(r["protocol"], r["domain"], r["datagrams_received"]) for r in rows] == [
        ("NETFLOW_V5", 0, 3),
        ("NETFLOW_V9", 1, 1),
        ("NETFLOW_V9", 2, 2),
    ]


def test_what_waits_in_a_session_is_expired_when_the_process_has_ended() -> None:
    ledger, to = Ledger(), decoder()
    batch = DatagramBatch.from_payloads([builders.ipfix([builders.set_of(256, RECORD)])], session=9)
    ledger.add_decoded(to.decode(batch, 0))
    assert row(ledger)["datagrams_held"] == 1
    again = decoder()
    again.load(to.dump(), to.dump_held(everything=True))
    assert again.sessions() == {9}
    again.end_session(9)
    feed(ledger, again, builders.v5())
    assert row(ledger)["datagrams_expired"] == 1
    assert ledger.balance() == []


def test_a_held_datagram_that_proves_malformed_is_not_booked_as_decoded() -> None:
    ledger, to = Ledger(), decoder()
    text = [(0, 82, builders.VARIABLE)]
    feed(ledger, to, builders.ipfix([builders.set_of(256, b"\xc8" + bytes(7))]))
    assert row(ledger)["datagrams_held"] == 1
    feed(ledger, to, builders.ipfix([builders.template_set(256, text, True)]))
    assert "datagrams_held" not in row(ledger)
    assert row(ledger)["datagrams_malformed_data"] == 1
    assert row(ledger)["datagrams_decoded"] == 1
    assert ledger.balance() == []
