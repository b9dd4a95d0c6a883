"""Map first, then split single segments where that gains: the flow of the owner's specification (version_c.md 10.3).

Segments are marked by 9.2 (`workloads.mark_fine_splittable_segments`), mapped whole, and split one after the other by
the acceptance rule of 9.3 (`solvers.split`). `dse.teams` with any solver searches both at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.errors import DseError
from dse.teams import TeamCosts, split_teams
from solvers.mapping.bounds import lower_bound
from solvers.mapping.evaluate import finish
from solvers.mapping.problem import Mapping, MappingProblem
from solvers.split import FineSplit, split_marked

if TYPE_CHECKING:
    from dse.cost_table import CostTable, Objective

ATTENTION_RATIO = 0.3
"""A segment is marked above this share of attention FLOPs."""

TRAFFIC_BYTES = 1e6
"""A segment is marked that writes more for others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FineSplitMapping:
    """A mapping of whole segments, and what splitting the marked ones made of it."""

    table: CostTable
    teams: TeamCosts
    problem: MappingProblem  # with the teams
    baseline: Mapping
    mapping: Mapping
    tried: tuple[FineSplit, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the dictionary of version_c.md 10.3.

        `segments` are those of the graph, a split one replaced by its parts; `mapping` is the slot of each.
        `per_slot_time` [S] is the time in ms that a slot computes, collectives included; `comm_ms` that of all
        transfers between modes, one after the other. `rewire_meta` are those of the splits, permutations as lists.
        """
        problem, assignment, slots = self.problem, self.mapping.assignment, self.problem.slots
        layers = self.table.segments.graph.layers
        per_slot = np.zeros(slots)
        rows: list[dict[str, Any]] = []
        rewire: list[dict[str, Any]] = []
        for segment, mode in zip(self.table.segments, assignment.tolist(), strict=True):
            members = np.flatnonzero(problem.members[mode]).tolist()
            per_slot[members] += problem.compute_ms[segment.id, mode]
            split = self.teams.splits[segment.id, mode - slots] if mode >= slots else None
            for part, slot in enumerate(members):
                flops = segment.flops
                if split is not None:
                    flops = float(split.flops_share[part] @ [layers[layer].flops for layer in split.layers])
                rows.append(
                    {
                        "id": segment.id,
                        "name": segment.name,
                        "part": None if split is None else part,
                        "parts": len(members),
                        "way": None if split is None else split.way,
                        "slot": slot,
                        "flops": flops,
                        "can_split_fine": segment.can_split_fine,
                    }
                )
            if split is not None:
                rewire += [
                    {name: value.tolist() if hasattr(value, "tolist") else value for name, value in entry.items()}
                    for entry in split.rewire_meta
                ]
        return {
            "mapping": [row["slot"] for row in rows],
            "per_slot_time": per_slot.tolist(),
            "total_latency_ms": self.mapping.latency_ms,
            "comm_ms": self._transfers_ms(assignment),
            "segments": rows,
            "rewire_meta": rewire,
            "baseline_latency_ms": self.baseline.latency_ms,
            "tried": [
                {
                    "segment": split.segment,
                    "use_fine": split.use_fine,
                    "cost_coarse": split.cost_coarse,
                    "cost_fine": split.cost_fine if np.isfinite(split.cost_fine) else None,
                }
                for split in self.tried
            ],
        }

    def _transfers_ms(self, assignment: NDArray[np.int64]) -> float:
        problem = self.problem
        p, q = assignment[problem.edges].T if len(problem.edges) else np.zeros((2, 0), np.int64)
        times = problem.route_latency_ms[p, q] + problem.edge_bytes * problem.route_ms_per_byte[p, q]
        return float(times[p != q].sum())


def split_fine(
    workload: str,
    table: CostTable,
    baseline: Mapping,
    *,
    objective: Objective = "latency",
    groups: int = 2,
    attention_ratio: float = ATTENTION_RATIO,
    traffic_bytes: float = TRAFFIC_BYTES,
    margin: float = 0.0,
    seed: int = 0,
    **terms: Any,
) -> FineSplitMapping:
    """Split the marked segments of a mapping over teams of `groups` slots, each where it gains more than `margin`.

    `margin` is in units of the objective (ms or mJ), `seed` that of the permutation of channels; `terms` are further
    words of `CostTable.mapping_problem`, those that the baseline was solved with.

    Raises DseError where the baseline is none, or the system has fewer than `groups` chips.
    """
    from workloads import mark_fine_splittable_segments

    if not len(baseline.assignment):
        raise DseError(f"{baseline.solver} found no mapping to split", "a longer deadline, or another solver")
    started = perf_counter()
    settings = {
        "fine_split_attn_ratio_threshold": attention_ratio,
        "fine_split_traffic_threshold": traffic_bytes,
        "fine_groups": groups,
    }
    marked = mark_fine_splittable_segments(table.segments, settings)
    wanted = [segment.id for segment in marked if segment.can_split_fine]
    teams = split_teams(workload, table, sizes=(groups,), only=wanted, permute_seed=seed)
    problem = table.mapping_problem(objective, teams=teams, **terms)
    order = baseline.order if len(baseline.order) else None
    pairs = [(segment, groups) for segment in wanted]
    assignment, tried = split_marked(problem, baseline.assignment, pairs, margin=margin, order=order)
    mapping = finish(
        problem,
        assignment,
        lower_bound=lower_bound(problem),
        solver=f"{baseline.solver}, split",
        started=started,
        order=order,
    )
    return FineSplitMapping(
        table=replace(table, costs=replace(table.costs, segments=marked)),
        teams=teams,
        problem=problem,
        baseline=baseline,
        mapping=mapping,
        tried=tuple(tried),
    )
