"""The soft maximum of monomials a row, compiled. Imported only where many rows are predicted."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array32 = NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def soft_maxima(
    monomials: Array32, place: NDArray[np.int64], work: Array32, rates: Array32, sharpness: float
) -> Array32:
    """Return the log of the p-norm [N] of each row's times: products of powers, of which logs are summed.

    `monomials` [U, T, WORK + RATES + 1] holds exponents, and logs of coefficients, of U classes; `place` [N] a row's
    class, `work` [N, WORK] and `rates` [N, RATES] logs, centred.
    """
    terms, works, ranks = monomials.shape[1], work.shape[1], rates.shape[1]
    found = np.empty(len(place), np.float32)
    times = np.empty(terms, np.float32)
    for row in range(len(place)):
        largest = np.float32(-np.inf)
        for term in range(terms):
            exponents = monomials[place[row], term]
            time = exponents[works + ranks]
            for column in range(works):
                time += exponents[column] * work[row, column]
            for column in range(ranks):
                time += exponents[works + column] * rates[row, column]
            times[term] = time
            largest = max(largest, time)
        total = np.float32(0.0)
        for term in range(terms):
            total += np.exp(np.float32(sharpness) * (times[term] - largest))
        found[row] = largest + np.log(total) / np.float32(sharpness)
    return found
