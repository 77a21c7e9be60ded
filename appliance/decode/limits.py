"""What one exporter, and all of them together, may cost this node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on work and state; what goes beyond one is counted, never silent."""

    sets_per_datagram: int = 1024
    records_per_datagram: int = 4096
    fields_per_template: int = 1024
    templates_per_exporter: int = 4096
    templates: int = 400_000
    held_bytes_per_exporter: int = 4 << 20
    held_bytes: int = 256 << 20
    held_ns: int = 1800 * 1_000_000_000
    """Age at which a held datagram becomes a loss: twice the slowest common template refresh."""
    options_per_exporter: int = 65_536
    """Names and sampling rates kept per exporter."""
    options_records_per_batch: int = 100_000
