"""Figures of every catalogue model at batches and lengths that no trace was made of, against traces at those sizes."""

from __future__ import annotations

import workloads
from tests.benchmarks.figure import Figure

FAR = 7
"""How many steps of the fit beyond the example's length."""

BETWEEN = 1.37
"""A length between those that share their remainders, as a multiple of the example's."""


def measure() -> list[Figure]:
    """Largest error of four figures at a batch and length with the fit's remainders, and at another length."""
    figures = []
    for name in workloads.names():
        family = workloads.family(name)
        sizes: list[tuple[int, int | None]] = [(5, family.length)]
        if family.length is not None:
            first, second, _ = (length or 0 for _, length in family.sizes(1, family.length + 1))
            sizes = [(5, first + FAR * (second - first)), (1, round(first * BETWEEN))]
        checks = [family.check(batch=batch, length=length) for batch, length in sizes]
        for (batch, length), check, goal in zip(sizes, checks, (0.0, 1.0), strict=False):
            at = f"batch {batch}" if length is None else f"batch {batch}, length {length:,}"
            figures.append(
                Figure(
                    figure=f"largest error of a scaled graph, {name}, {at}",
                    goal=goal,
                    measured=100 * max(check.values()),
                    unit="%",
                    higher_is_better=False,
                    note=f"MACs {100 * check['macs']:.3f} %, FLOPs {100 * check['flops']:.3f} %, "
                    f"bytes {100 * check['bytes']:.3f} %, peak memory {100 * check['peak_memory']:.3f} %",
                )
            )
    return figures
