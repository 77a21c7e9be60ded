"""Hostile inputs: the decoder survives each, quickly and in bounded memory, and then goes on.

Every crafted capture ends with a valid NetFlow v5 record, the sentinel, which has to come out.
"""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest

from appliance.decode import Status
from appliance.offline.capture import Capture
from tests.conformance.corpus import default_directory
from tests.decoding import check, decoder, flow_rows

INDEX = default_directory() / "malformed" / "index.json"
ENTRIES = json.loads(INDEX.read_text()) if INDEX.exists() else []
SECONDS = 2.0
MEMORY = 32 << 20
SENTINEL_BYTES = 424242

pytestmark = pytest.mark.skipif(
    not ENTRIES, reason=f"no hostile inputs in {INDEX.parent}; TANDEM_CORPUS says where they are"
)


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Imports and caches of the first call are not the input's doing."""
    if ENTRIES:
        run(ENTRIES[0])


def run(entry, single=False):
    decoding = decoder()
    rows, statuses = [], []
    for batch in Capture(default_directory() / entry["file"]).batches():
        datagrams = batch.datagrams
        size = 1 if single else len(datagrams)
        for first in range(0, len(datagrams), size):
            part = datagrams.select(slice(first, first + size))
            decoded = decoding.decode(part, int(part.received_ns.max()))
            check(decoded)
            rows += flow_rows(decoded)
            statuses += decoded.status.tolist()
    return rows, np.asarray(statuses)


@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
@pytest.mark.parametrize("entry", ENTRIES, ids=[e["id"] for e in ENTRIES])
def test_a_hostile_input_is_survived_within_bounds(entry, single):
    tracemalloc.start()
    began = time.perf_counter()
    try:
        rows, status = run(entry, single)
        used = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < SECONDS
    assert peak < MEMORY
    if entry.get("sentinel"):
        sentinels = [r for r in rows if r.get("bytes") == SENTINEL_BYTES and r["packets"] == 42]
        assert len(sentinels) == 1
        assert rows[-1] == sentinels[0]
        rows = rows[:-1]
        assert status[-1] == Status.DECODED
    if "min_records" in entry:
        assert entry["min_records"] <= len(rows) <= entry["max_records"]


def _entry(name):
    return next(e for e in ENTRIES if e["id"] == name)


def test_times_around_a_wrap_of_the_uptime_stay_near_the_export():
    rows, _ = run(_entry("v5-uptime-wrap"))
    age_s = (rows[0]["export_ns"] - rows[0]["end_ns"]) / 1e9
    assert 0 < age_s < 60


def test_unknown_versions_are_counted_as_such():
    _, status = run(_entry("hdr-version-unknown"))
    assert (status[:-1] == Status.UNKNOWN_VERSION).all()


def test_a_sampling_rate_of_zero_is_unknown_not_zero():
    rows, _ = run(_entry("v9-sampling-zero"))
    assert all(row.get("sampling_rate", 1) > 0 for row in rows)
