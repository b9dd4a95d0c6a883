"""How long an operator takes, on data that no cache holds, and how much memory it takes at most."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dse.proxy.measure.energy import EnergyCounter
from dse.proxy.measure.operators import Operand, Operator

TIMERS = {"cpu": "wallclock_median_cold", "cuda": "cuda_event_median_cold"}
"""How the time is taken, by kind of device; "cold" data were not touched since more than the last-level cache ago."""

SAMPLE_S = 20e-6
"""Least time of one sample: a shorter call is repeated in it, the clock's resolution being 0.1 us or less."""

ROW_S = 0.06
"""Time spent on the samples of one row."""

LONG_S = 0.1
"""A call that takes longer is timed FEWEST times."""

FEWEST, FEW, MOST = 3, 5, 40
ALIGNMENT = 64  # elements: operands start at cache lines
MAPPED_BYTES = (32 << 20) - (1 << 16)
"""Freeing a piece of memory of just under 32 MiB brings glibc's allocator into its steady state: from then on it maps
larger pieces only anew at each call (mallopt(3), M_MMAP_THRESHOLD), as in a model after its first run."""

ENERGY_S = 0.05
"""Least time over which an energy counter tells a power."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Median time of one call, the median absolute deviation from it, and the mean power (None where not known)."""

    latency_ms: float
    mad_ms: float
    repeats: int
    power_w: float | None = None


class ColdData:
    """Random tensors out of a stretch of memory twice as large as the last-level cache, which is gone through in order.

    Before a place is used again, more than the cache holds was read, so that what an operator reads is in no cache.
    Tensors of more than half of the stretch have one of their own.
    """

    def __init__(self, device: str, cache_bytes: int, seed: int) -> None:
        self.device = device
        self.least_bytes = 2 * cache_bytes
        self._generator = torch.Generator().manual_seed(seed)
        torch.empty(MAPPED_BYTES, dtype=torch.uint8)
        self._flat: dict[tuple[torch.dtype, bool], torch.Tensor] = {}  # by type, and whether for large tensors
        self._next: dict[tuple[torch.dtype, bool], int] = {}

    def tensors(self, operands: Sequence[Operand]) -> tuple[torch.Tensor, ...]:
        """Return tensors for the operands, the next ones in the stretch."""
        return tuple(self._tensor(operand) for operand in operands)

    def _tensor(self, operand: Operand) -> torch.Tensor:
        count = operand.stored_elements
        if operand.high:
            drawn = torch.randint(operand.high, (count,), generator=self._generator).to(operand.dtype)
            return operand.of(drawn.to(self.device))
        real = torch.float32 if operand.dtype == torch.complex64 else operand.dtype
        width = operand.dtype.itemsize // real.itemsize
        key = (real, count * operand.dtype.itemsize > self.least_bytes // 2)
        flat = self._stretch(key, count * width)
        first = self._next.get(key, 0)
        if first + count * width > flat.numel():
            first = 0
        self._next[key] = first + math.ceil(count * width / ALIGNMENT) * ALIGNMENT
        return operand.of(flat[first : first + count * width].view(operand.dtype))

    def _stretch(self, key: tuple[torch.dtype, bool], count: int) -> torch.Tensor:
        held = self._flat.get(key)
        if held is None or held.numel() < count:
            size = max(self.least_bytes // key[0].itemsize, count)
            self._flat.pop(key, None)
            self._flat[key] = held = self._random(key[0], 1 << (size - 1).bit_length()).to(self.device)
        return held

    def _random(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        """Return random numbers; a million of them are repeated, which no operator here takes advantage of."""
        block = min(count, 1 << 20)
        if dtype.is_floating_point:
            drawn = torch.randn(block, generator=self._generator)
        else:
            drawn = torch.randint(-100, 100, (block,), generator=self._generator)
        return drawn.to(dtype).repeat(count // block)


def time_operator(operator: Operator, data: ColdData, energy: EnergyCounter | None = None) -> Timing:
    """Return how long one call takes: the median of samples after a warm-up."""
    clock = _clock(data.device)
    call, operands = operator.call, operator.operands
    with torch.no_grad():
        first = clock(call, [data.tensors(operands)])  # compiles and allocates
        once = clock(call, [data.tensors(operands)]) if first < LONG_S else first
        inner = max(1, math.ceil(SAMPLE_S / max(once, 1e-9)))
        repeats = FEWEST if once > LONG_S else min(MOST, max(FEW, round(ROW_S / (once * inner))))
        before = energy.read() if energy else None
        samples = []
        for _ in range(repeats):
            tensors = [data.tensors(operands) for _ in range(inner)]
            samples.append(clock(call, tensors) / inner)
        power = energy.power_since(before, ENERGY_S) if energy and before else None
    median = statistics.median(samples)
    deviation = statistics.median(abs(sample - median) for sample in samples)
    return Timing(latency_ms=1e3 * median, mad_ms=1e3 * deviation, repeats=repeats * inner, power_w=power)


def _clock(device: str) -> Callable[[Callable[..., Any], Sequence[tuple[torch.Tensor, ...]]], float]:
    return _cuda_seconds if device == "cuda" else _cpu_seconds


def _cpu_seconds(call: Callable[..., Any], batches: Sequence[tuple[torch.Tensor, ...]]) -> float:
    start = time.perf_counter()
    for tensors in batches:
        call(*tensors)
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[..., Any], batches: Sequence[tuple[torch.Tensor, ...]]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for tensors in batches:
        call(*tensors)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def peak_memory_bytes(operator: Operator, data: ColdData) -> int:
    """Bytes at the peak of one call: weights, inputs, and what torch's allocator gives out at most on top of them."""
    tensors = data.tensors(operator.operands)
    held = operator.operand_bytes
    with torch.no_grad():
        return held + allocated_peak(lambda: operator.call(*tensors), data.device)


def allocated_peak(run: Callable[[], Any], device: str) -> int:
    """Bytes that torch's allocator gives out at most while `run` runs, beside what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - int(before)
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
        made = run()
    assert profile.kineto_results is not None
    live = peak = 0
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del made  # held to the end: what a call returns is part of its peak
    return int(peak)
