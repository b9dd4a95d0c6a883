"""Figure: one measured number beside its goal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured, in which unit, and what it should be. `goal` is None where there is nothing to reach."""

    figure: str
    goal: float | None
    measured: float
    unit: str
    higher_is_better: bool = True
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.measured >= self.goal if self.higher_is_better else self.measured <= self.goal
