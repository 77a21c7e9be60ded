"""Any bytes may be taken for a packet: the decoder answers, and each packet for itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.columns import Column, record_batch
from appliance.decode.packet import decode_packets
from tests.packet_builders import ethernet, extension, gre, ipv4, ipv6, mpls, tcp, vxlan

SEEDS = [
    ethernet(0x0800, ipv4(6, tcp()), 5, 6),
    ethernet(0x86DD, ipv6(0, extension(43) + extension(6) + tcp())),
    ethernet(0x8847, mpls([1, 2, 3], bytes(4) + ethernet(0x0800, ipv4(47, gre(0x0800, b""))))),
    ethernet(0x0800, ipv4(17, vxlan(1, ethernet(0x86DD, ipv6(41, ipv6(6, tcp())))))),
]

mutated = st.builds(
    lambda seed, edits, cut: _edit(seed, edits)[: len(seed) - cut],
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 40),
)
packets = st.lists(
    st.tuples(st.one_of(st.binary(max_size=200), mutated), st.integers(0, 20)),
    max_size=8,
)


def _edit(seed: bytes, edits: list[tuple[int, int]]) -> bytes:
    out = bytearray(seed)
    for at, value in edits:
        out[at % len(out)] = value
    return bytes(out)


def _rows(batch: list[tuple[bytes, int]]) -> list[dict]:
    length = np.array([len(p) for p, _ in batch], np.int64)
    buffer = np.frombuffer(b"".join(p for p, _ in batch), np.uint8)
    kinds = np.array([k for _, k in batch], np.int64)
    columns: dict[str, Column] = decode_packets(buffer, np.cumsum(length) - length, length, kinds)
    if not columns:
        return [{} for _ in batch]
    rows = record_batch(columns).to_pylist()
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


@settings(max_examples=400, deadline=None)
@given(packets)
def test_any_bytes_are_decoded_without_error_and_as_if_alone(batch):
    assert _rows(batch) == [_rows([one])[0] for one in batch]
