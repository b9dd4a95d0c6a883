"""Metrics: the scalars of one design."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What one mapped, placed and simulated design achieves.

    Serial regime: `latency_ms` is that of one input (one batch) alone and throughput its inverse. Pipelined regime:
    `latency_ms` is from an input's start to its end in the full pipeline, throughput the steady rate. Throughput
    counts samples: a batch of 4 in 2 ms is 2,000 a second. `energy_mj` is that of one
    sample, so that batches compare.
    """

    latency_ms: float
    throughput_per_s: float
    energy_mj: float
    peak_memory_mb: float  # of the fullest chip
    area_mm2: float  # silicon of all chips
    cost_usd: float
    power_w: float  # mean over the run
    utilisation: float  # mean over chips of busy time / makespan, in [0, 1]
    contention_ms: float = 0.0  # latency with link contention minus without

    def as_dict(self) -> dict[str, float]:
        """Return the metrics by name."""
        return asdict(self)


LESS_IS_BETTER = {
    "latency_ms": True,
    "throughput_per_s": False,
    "energy_mj": True,
    "peak_memory_mb": True,
    "area_mm2": True,
    "cost_usd": True,
    "power_w": True,
    "utilisation": False,
}
