"""The random numbers of compiled searches: a seed decides them, on every machine."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, _nrt=False)
def random(state):  # type: ignore[no-untyped-def]
    """Return the next number in [0, 1) of xorshift64 (Marsaglia 2003)."""
    bits = state[0]
    bits ^= bits << np.uint64(13)
    bits ^= bits >> np.uint64(7)
    bits ^= bits << np.uint64(17)
    state[0] = bits
    return (bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def seeded(seed):  # type: ignore[no-untyped-def]
    """Return a state for `random`, from a whole number below 2**53."""
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed * 2654435769 + 88172645463325252)
    for _ in range(8):
        random(state)
    return state
