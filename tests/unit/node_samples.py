"""A node's data directory, as the collector would leave it."""

from __future__ import annotations

import time
from pathlib import Path

from appliance.batch import DatagramBatch
from appliance.decode import Decoder
from appliance.decode.elements import Registry
from appliance.ledger.ledger import Ledger
from appliance.store import checkpoint
from appliance.store.checkpoint import Checkpoint
from tests.unit.store_samples import address


def write_shard(data_dir: Path, number: int, datagrams: list[tuple[str, bytes]]) -> Ledger:
    """Decode ``datagrams`` (exporter, payload) and write the checkpoint of shard ``number``."""
    folder = data_dir / "shards" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    decoder, ledger = Decoder(Registry.load()), Ledger()
    batch = DatagramBatch.from_payloads(
        [payload for _, payload in datagrams], [address(exporter) for exporter, _ in datagrams]
    )
    ledger.add_decoded(decoder.decode(batch, time.time_ns()))
    ledger.stored()
    save(folder, ledger, decoder.dump())
    return ledger


def save(folder: Path, ledger: Ledger, state: bytes) -> None:
    """Write a checkpoint."""
    name = f"state-{time.time_ns()}"
    (folder / name).write_bytes(state)
    point = Checkpoint(updated_ns=time.time_ns(), state=name, torn=1)
    point.parts["ledger"] = ledger.dump()
    checkpoint.save(folder, point)
