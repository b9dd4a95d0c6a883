"""MappingProblem and Mapping: which slot computes which segment, stated as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError

Regime = Literal["serial", "pipelined"]
Status = Literal["optimal", "feasible", "infeasible", "unknown"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MappingProblem:
    """Assign each of K segments to one of S slots.

    Segments are numbered in a topological order: every edge goes from a lower to a higher number, and a slot runs its
    segments in that order, one at a time.

    Time T [ms] of a mapping:
      serial     one input: the finish of the last segment, where a segment starts when its slot is free and its
                 inputs have arrived; an edge between slots p != q takes
                 route_latency_ms[p, q] + bytes * route_ms_per_byte[p, q].
      pipelined  a stream of inputs: the load of the busiest slot (sum of compute_ms) or link (sum over the edges
                 whose route uses the link of bytes * route_ms_per_byte of the route).
    Energy E [mJ] an input: energy_mj summed + bytes * route_mj_per_byte over cut edges + static_w * T.
    Objective: latency_weight * T + energy_weight * E, to be made small.

    Memory of slot s: sum of resident_bytes of its segments + the largest workspace_bytes among them, at most
    capacity_bytes[s]. `allowed` is False where a segment cannot run (no chip, precision or rule).
    `contiguous`: each slot holds one run of consecutive segments, or none.
    """

    compute_ms: NDArray[np.float64]  # [K, S]
    energy_mj: NDArray[np.float64]  # [K, S] dynamic
    edges: NDArray[np.int64]  # [E, 2]
    edge_bytes: NDArray[np.float64]  # [E]
    route_latency_ms: NDArray[np.float64]  # [S, S], zero diagonal
    route_ms_per_byte: NDArray[np.float64]  # [S, S], zero diagonal
    route_mj_per_byte: NDArray[np.float64]  # [S, S], zero diagonal
    route_links: NDArray[np.bool_]  # [S, S, L] which links a route uses; L may be 0
    resident_bytes: NDArray[np.float64]  # [K]
    workspace_bytes: NDArray[np.float64]  # [K]
    capacity_bytes: NDArray[np.float64]  # [S]
    allowed: NDArray[np.bool_]  # [K, S]
    static_w: float = 0.0
    regime: Regime = "serial"
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    contiguous: bool = False
    names: tuple[str, ...] = field(default=(), repr=False)  # [K] of the segments, for messages; or none

    def __post_init__(self) -> None:
        k, s = self.compute_ms.shape
        if not (k and s):
            raise SolverError(f"a problem of {k} segments and {s} slots", "at least one of each")
        if self.regime not in get_args(Regime):
            raise SolverError(f"no regime is called {self.regime!r}", f"one of {', '.join(get_args(Regime))}")
        shapes = {
            "energy_mj": (k, s),
            "edges": (len(self.edge_bytes), 2),
            "route_latency_ms": (s, s),
            "route_ms_per_byte": (s, s),
            "route_mj_per_byte": (s, s),
            "route_links": (s, s, self.route_links.shape[-1]),
            "resident_bytes": (k,),
            "workspace_bytes": (k,),
            "capacity_bytes": (s,),
            "allowed": (k, s),
        }
        if len(self.names) not in (0, k):
            raise SolverError(f"{len(self.names)} names for {k} segments", "one a segment, or none")
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise SolverError(f"{name} has shape {getattr(self, name).shape}", f"expected {shape}")
        if len(self.edges) and not (
            (self.edges[:, 0] < self.edges[:, 1]).all() and self.edges.min() >= 0 and self.edges.max() < k
        ):
            raise SolverError("edges must go from a lower to a higher segment", "number segments topologically")
        for name in ("compute_ms", "energy_mj"):
            values = getattr(self, name)[self.allowed]
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise SolverError(f"{name} has a negative or non-finite value where the segment is allowed")
        for name in (
            "edge_bytes",
            "route_latency_ms",
            "route_ms_per_byte",
            "route_mj_per_byte",
            "resident_bytes",
            "workspace_bytes",
            "capacity_bytes",
        ):
            values = getattr(self, name)
            if values.size and not (values.min() >= 0 and np.isfinite(values.max())):
                raise SolverError(f"{name} has a negative or non-finite value", "zero or more")
            if name.startswith("route") and values.diagonal().any():
                raise SolverError(f"{name} is not zero on its diagonal", "a slot reaches itself at no cost")
        if not (np.isfinite(self.static_w) and self.static_w >= 0):
            raise SolverError(f"static_w is {self.static_w}", "zero or more")
        weights = self.latency_weight, self.energy_weight
        if not (np.isfinite(weights).all() and min(weights) >= 0 and max(weights) > 0):
            raise SolverError(
                f"weights {weights} do not make an objective",
                "both finite and at least zero, not both zero",
            )

    @property
    def segments(self) -> int:
        """K, the number of segments."""
        return int(self.compute_ms.shape[0])

    @property
    def slots(self) -> int:
        """S, the number of slots."""
        return int(self.compute_ms.shape[1])

    @property
    def time_weight(self) -> float:
        """Weight of one ms of T in the objective, static power included (W x ms = mJ)."""
        return self.latency_weight + self.energy_weight * self.static_w


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasibility:
    """A constraint that cannot be met: by how much, and what would meet it."""

    constraint: str  # "memory", "deployability", ...
    subject: str  # the segment or slot
    demand: float
    bound: float
    unit: str
    levers: tuple[str, ...] = ()  # concrete changes of the input that would satisfy it

    @property
    def gap(self) -> float:
        """How much is missing, in `unit`."""
        return self.demand - self.bound

    def __str__(self) -> str:
        levers = f"; {', or '.join(self.levers)}" if self.levers else ""
        return (
            f"{self.constraint} of {self.subject}: needs {self.demand:,.4g} {self.unit}, "
            f"has {self.bound:,.4g} {self.unit}, {self.gap:,.4g} {self.unit} too little{levers}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """One line of a solver's history."""

    wall_s: float
    objective: float
    lower_bound: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapping:
    """A solver's answer. `assignment` [K] is empty where none was found; the checker has seen every other one."""

    assignment: NDArray[np.int64]
    objective: float  # inf where none was found
    latency_ms: float  # T of the problem's regime
    energy_mj: float
    lower_bound: float
    status: Status
    solver: str
    wall_s: float
    history: tuple[Incumbent, ...] = ()
    infeasibility: tuple[Infeasibility, ...] = ()

    @property
    def gap(self) -> float:
        """(objective - lower_bound) / objective, 0 where proven optimal."""
        if not np.isfinite(self.objective):
            return float("inf")
        return max(0.0, (self.objective - self.lower_bound) / self.objective) if self.objective > 0 else 0.0
