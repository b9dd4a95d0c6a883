"""MappingProblem and Mapping: which slot computes which segment, stated as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from solvers.errors import SolverError

Regime = Literal["serial", "pipelined", "offload"]
Status = Literal["optimal", "feasible", "infeasible", "unknown"]

UNLIMITED = 2**31 - 1


def _nothing() -> NDArray[np.float64]:
    return np.zeros(0)


def _no_flags() -> NDArray[np.bool_]:
    return np.zeros(0, dtype=np.bool_)


def _no_numbers() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


def _no_teams() -> NDArray[np.bool_]:
    return np.zeros((0, 0), dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class MappingProblem:
    """Assign each of K segments to one of M modes: the S slots, then T teams of several slots.

    Segments are numbered in a topological order: every edge goes from a lower to a higher number.

    A **mode** says where and how a segment runs. Mode s < S is slot s alone. Mode S + t runs it on all slots of
    `teams[t]` together (split, or replicated): each of them is busy for compute_ms and holds resident_bytes. Without
    teams, modes are slots.

    **Time** T [ms] of a mapping, by regime:
      serial     One input. A segment starts when its slots are free and its inputs have arrived; a slot runs its
                 segments one at a time, in number order (or with `free_order` in the topological order that comes with
                 the mapping); an edge between modes p != q takes route_latency_ms[p, q] + bytes *
                 route_ms_per_byte[p, q]. T is the finish of the last segment.
      pipelined  A stream of inputs. T is the load an input of the busiest slot or link. A slot's load is its compute_ms
                 summed, and its port: with u on mode p, where a consumer of u is elsewhere, output_bytes[u] *
                 port_out_ms_per_byte[p]; and output_bytes[u] * port_in_ms_per_byte[q] once for each mode q != p with
                 a consumer of u, however many it has. A link's load is summed over the edges: bytes *
                 route_ms_per_byte[p, q] * route_links[p, q, link].
      offload    One input. Each slot runs all of its segments as one call: it starts when every input from elsewhere
                 has arrived (routes as in serial), takes the slot's load as in pipelined, and everything in it ends
                 with it. So no path may leave a slot and come back. There are no teams.
    A `concurrent` slot, a host with threads to spare, is never busy: it runs each segment as soon as its inputs are
    there, in offload each as a call of its own; in pipelined its load is that of its largest segment.

    **Energy** E [mJ] an input: energy_mj summed + bytes * route_mj_per_byte over cut edges + static_w * T.

    **Objective**: latency_weight * T + energy_weight * E, to be made small, where T <= max_latency_ms and
    E <= max_energy_mj (a pair of objectives is solved by bounding one of them: epsilon constraints).

    **Constraints**: `allowed` is False where a segment cannot run (no chip, precision or rule). Segments of one number
    in `group` (-1: alone) run in one mode. Memory of slot s: over its segments, the sum of resident_bytes, the largest
    workspace_bytes, and the sum of stash_bytes times the inputs in flight, at most capacity_bytes[s]. `contiguous`:
    the slots are stages of a pipeline: they can be put in an order such that no edge goes back, and no slot is used by
    two modes. Edges of `backward` segments (of a training step) do not count for that order; they follow their groups.

    **Training**: stash_bytes are the activations that a segment keeps of each input from its forward to its backward
    pass. With one-forward-one-backward scheduling a stage holds those of as many inputs as there are stages on the
    longest way from it to the last one, both included (PipeDream, arXiv 1806.03377, section 3.2): `contiguous` counts
    those, a free mapping all slots in use; at most `most_in_flight` (the micro-batches of a step). Data-parallel
    replicas of a stage are a team whose compute_ms is the share of one replica, gradient exchange included.
    """

    compute_ms: NDArray[np.float64]  # [K, M]
    energy_mj: NDArray[np.float64]  # [K, M] dynamic
    edges: NDArray[np.int64]  # [E, 2]
    edge_bytes: NDArray[np.float64]  # [E]
    route_latency_ms: NDArray[np.float64]  # [M, M], zero diagonal
    route_ms_per_byte: NDArray[np.float64]  # [M, M], zero diagonal
    route_mj_per_byte: NDArray[np.float64]  # [M, M], zero diagonal
    route_links: NDArray[np.bool_] | NDArray[np.float64]  # [M, M, L] share of its time that a route holds a link
    resident_bytes: NDArray[np.float64]  # [K], or [K, M] where it depends on the mode
    workspace_bytes: NDArray[np.float64]  # [K]
    capacity_bytes: NDArray[np.float64]  # [S]
    allowed: NDArray[np.bool_]  # [K, M]
    teams: NDArray[np.bool_] = field(default_factory=_no_teams)  # [T, S] slots of a team; [0, 0]: none
    group: NDArray[np.int64] = field(default_factory=_no_numbers)  # [K], or [0]: every segment alone
    backward: NDArray[np.bool_] = field(default_factory=_no_flags)  # [K], or [0]: none
    stash_bytes: NDArray[np.float64] = field(default_factory=_nothing)  # [K], or [0]: nothing
    port_in_ms_per_byte: NDArray[np.float64] = field(default_factory=_nothing)  # [M], or [0]: nothing
    port_out_ms_per_byte: NDArray[np.float64] = field(default_factory=_nothing)  # [M], or [0]: nothing
    concurrent: NDArray[np.bool_] = field(default_factory=_no_flags)  # [S], or [0]: none
    static_w: float = 0.0
    regime: Regime = "serial"
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    max_latency_ms: float = float("inf")
    max_energy_mj: float = float("inf")
    contiguous: bool = False
    free_order: bool = False
    most_in_flight: int = UNLIMITED
    names: tuple[str, ...] = field(default=(), repr=False)  # [K] of the segments, for messages; or none

    def __post_init__(self) -> None:
        k, m = self.compute_ms.shape
        s = m - len(self.teams)
        if not (k and m):
            raise SolverError(f"a problem of {k} segments and {m} slots", "at least one of each")
        if self.regime not in get_args(Regime):
            raise SolverError(f"no regime is called {self.regime!r}", f"one of {', '.join(get_args(Regime))}")
        self._check_shapes(k, m, s)
        self._check_values()
        if len(self.edges) and not (
            (self.edges[:, 0] < self.edges[:, 1]).all() and self.edges.min() >= 0 and self.edges.max() < k
        ):
            raise SolverError("edges must go from a lower to a higher segment", "number segments topologically")
        if len(self.teams) and self.teams.sum(axis=1).min() < 2:
            raise SolverError(f"team {int(self.teams.sum(axis=1).argmin())} has fewer than two slots", "two or more")
        if self.regime == "serial" and self.has_ports:
            raise SolverError("ports do not go with the serial regime", "put them into the routes")
        if self.regime == "offload" and len(self.teams):
            raise SolverError("teams do not go with the offload regime", "serial or pipelined")
        if self.free_order and self.regime != "serial":
            raise SolverError(f"free_order does not go with the {self.regime} regime", "only serial runs in an order")
        if self.stash_bytes.any() and self.regime != "pipelined":
            raise SolverError(f"stash_bytes do not go with the {self.regime} regime", "pipelined")
        if self.most_in_flight < 1:
            raise SolverError(f"most_in_flight is {self.most_in_flight}", "at least 1")

    def _check_shapes(self, k: int, m: int, s: int) -> None:
        shapes: dict[str, tuple[tuple[int, ...], ...]] = {
            "energy_mj": ((k, m),),
            "edges": ((len(self.edge_bytes), 2),),
            "route_latency_ms": ((m, m),),
            "route_ms_per_byte": ((m, m),),
            "route_mj_per_byte": ((m, m),),
            "route_links": ((m, m, self.route_links.shape[-1]),),
            "resident_bytes": ((k,), (k, m)),
            "workspace_bytes": ((k,),),
            "capacity_bytes": ((s,),),
            "allowed": ((k, m),),
            "teams": ((len(self.teams), s), (0, 0)),
            "group": ((k,), (0,)),
            "backward": ((k,), (0,)),
            "stash_bytes": ((k,), (0,)),
            "port_in_ms_per_byte": ((m,), (0,)),
            "port_out_ms_per_byte": ((m,), (0,)),
            "concurrent": ((s,), (0,)),
        }
        if len(self.names) not in (0, k):
            raise SolverError(f"{len(self.names)} names for {k} segments", "one a segment, or none")
        for name, fine in shapes.items():
            if getattr(self, name).shape not in fine:
                raise SolverError(
                    f"{name} has shape {getattr(self, name).shape}", f"expected {' or '.join(map(str, fine))}"
                )

    def _check_values(self) -> None:
        for name in ("compute_ms", "energy_mj"):
            values = getattr(self, name)[self.allowed]
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise SolverError(f"{name} has a negative or non-finite value where the segment is allowed")
        for name in (
            "edge_bytes",
            "route_latency_ms",
            "route_ms_per_byte",
            "route_mj_per_byte",
            "route_links",
            "resident_bytes",
            "workspace_bytes",
            "stash_bytes",
            "port_in_ms_per_byte",
            "port_out_ms_per_byte",
        ):
            values = getattr(self, name)
            if values.size and not (values.min() >= 0 and np.isfinite(values.max())):
                raise SolverError(f"{name} has a negative or non-finite value", "zero or more")
            if name.startswith("route") and values.diagonal().any():
                raise SolverError(f"{name} is not zero on its diagonal", "a slot reaches itself at no cost")
        if not (self.capacity_bytes >= 0).all():
            raise SolverError("capacity_bytes has a negative value", "zero or more, inf for no limit")
        if not (np.isfinite(self.static_w) and self.static_w >= 0):
            raise SolverError(f"static_w is {self.static_w}", "zero or more")
        for name in ("max_latency_ms", "max_energy_mj"):
            if not getattr(self, name) >= 0:
                raise SolverError(f"{name} is {getattr(self, name)}", "zero or more, inf for no limit")
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
    def modes(self) -> int:
        """M, the number of slots and teams."""
        return int(self.compute_ms.shape[1])

    @property
    def slots(self) -> int:
        """S, the number of slots."""
        return int(self.capacity_bytes.shape[0])

    @property
    def has_ports(self) -> bool:
        """Whether anything is charged for what enters or leaves a slot."""
        return bool(self.port_in_ms_per_byte.any() or self.port_out_ms_per_byte.any())

    @property
    def time_weight(self) -> float:
        """Weight of one ms of T in the objective, static power included (W x ms = mJ)."""
        return self.latency_weight + self.energy_weight * self.static_w

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """[M, S] slots that a mode uses."""
        return np.concatenate([np.eye(self.slots, dtype=np.bool_), self.teams.reshape(-1, self.slots)])

    @cached_property
    def held_bytes(self) -> NDArray[np.float64]:
        """[K, M] bytes that a segment keeps on each slot of a mode, its stash of one input not included."""
        resident = self.resident_bytes if self.resident_bytes.ndim == 2 else self.resident_bytes[:, None]
        return np.broadcast_to(resident, self.compute_ms.shape)

    @cached_property
    def stash(self) -> NDArray[np.float64]:
        """[K] stash_bytes, zeros where there are none."""
        return self.stash_bytes if len(self.stash_bytes) else np.zeros(self.segments)

    @cached_property
    def never_busy(self) -> NDArray[np.bool_]:
        """[S] `concurrent`, False where none are."""
        return self.concurrent if len(self.concurrent) else np.zeros(self.slots, dtype=np.bool_)

    @cached_property
    def ports(self) -> NDArray[np.float64]:
        """[2, M] ms a byte that enters, and that leaves a mode."""
        nothing = np.zeros(self.modes)
        given = self.port_in_ms_per_byte, self.port_out_ms_per_byte
        return np.stack([port if len(port) else nothing for port in given])

    @cached_property
    def output_bytes(self) -> NDArray[np.float64]:
        """[K] what a port moves of a segment's output: its largest edge."""
        largest = np.zeros(self.segments)
        np.maximum.at(largest, self.edges[:, 0], self.edge_bytes)
        return largest

    @cached_property
    def unit(self) -> NDArray[np.int64]:
        """[K] number of the group of each segment, in the order of their first segments; one alone is a group."""
        if not len(self.group):
            return np.arange(self.segments)
        alone = np.where(self.group < 0, self.group.max(initial=0) + 1 + np.arange(self.segments), self.group)
        _, first, inverse = np.unique(alone, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        return rank[inverse]

    @cached_property
    def ordering(self) -> NDArray[np.bool_]:
        """[E] edges that the order of contiguous stages has to respect: those between forward segments."""
        if not len(self.backward):
            return np.ones(len(self.edges), dtype=np.bool_)
        return ~(self.backward[self.edges[:, 0]] | self.backward[self.edges[:, 1]])


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
    """A solver's answer. `assignment` [K] is empty where none was found; the checker has seen every other one.

    `assignment` names a mode a segment. `order` [K] is the topological order in which slots run their segments, where
    the problem leaves that free; else it is empty, and they run in number order.
    """

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
    order: NDArray[np.int64] = field(default_factory=_no_numbers)

    @property
    def gap(self) -> float:
        """(objective - lower_bound) / objective, 0 where proven optimal."""
        if not np.isfinite(self.objective):
            return float("inf")
        return max(0.0, (self.objective - self.lower_bound) / self.objective) if self.objective > 0 else 0.0
