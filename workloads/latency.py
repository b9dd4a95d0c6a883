"""Algorithmic latency of processing a stream in overlapping frames; nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a sample waits at most before its output is there, computing time apart."""

    hop_ms: float  # until the hop that it lies in is full
    look_ahead_ms: float  # until the frame that starts with this hop is full
    chunk_ms: float  # until the chunk that fills the frame is handed over

    @property
    def algorithmic_latency_ms(self) -> float:
        """All three."""
        return self.hop_ms + self.look_ahead_ms + self.chunk_ms


def check_frames(frame: int, hop: int) -> None:
    """Raise WorkloadError where frames of `frame` samples every `hop` would lose samples."""
    if not 1 <= hop <= frame:
        raise WorkloadError(f"frames of {frame} samples every {hop}", "1 <= hop <= frame, so that no sample is lost")


def overlap_latency(*, frame: int, hop: int, sample_rate: float, chunk: int = 1) -> Latency:
    """Return the latency of processing frames of `frame` samples every `hop`, with samples arriving `chunk` at a time.

    Sample k hop is certain once frame k is full, at k hop + frame; a chunk boundary follows after chunk - gcd(chunk,
    hop) more samples at most, since k hop + frame goes through all multiples of the gcd modulo `chunk` (frame being a
    multiple of the hop).

    Raises
    ------
    WorkloadError
        If there is no such cutting.
    """
    check_frames(frame, hop)
    if frame % hop or chunk < 1 or sample_rate < 1:
        raise WorkloadError(
            f"{frame=}, {hop=}, {chunk=}, {sample_rate=}", "a frame that is a multiple of the hop, a chunk of 1 or more"
        )
    wait = chunk - math.gcd(chunk, hop)
    to_ms = 1000 / sample_rate
    return Latency(hop_ms=hop * to_ms, look_ahead_ms=(frame - hop) * to_ms, chunk_ms=wait * to_ms)
