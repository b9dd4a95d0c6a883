"""Timeline: what ran where, when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPAN = np.dtype([("segment", "i8"), ("slot", "i8"), ("input", "i8"), ("start_ms", "f8"), ("end_ms", "f8")])
TRANSFER = np.dtype(
    [("edge", "i8"), ("input", "i8"), ("source", "i8"), ("target", "i8"), ("start_ms", "f8"), ("end_ms", "f8")]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Spans of compute [n] and of transfers [m] between slots, and what follows from them.

    A transfer's span is the time during which it holds its links and its bytes are under way, hop latency included.
    """

    compute: NDArray[np.void]  # SPAN [n]
    transfers: NDArray[np.void]  # TRANSFER [m]
    makespan_ms: float
    slot_busy_ms: NDArray[np.float64]  # [S]
    link_busy_ms: NDArray[np.float64]  # [L]
    peak_memory_bytes: NDArray[np.float64]  # [S] weights + live activations
