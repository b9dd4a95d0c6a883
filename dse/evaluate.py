"""Evaluator: one design in full - map it, place its chips, simulate it - as a row of the run folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chiplib import ChipLibrary, System
from chiplib.chip import Precision
from chiplib.package import slot_centres
from dse.cost_table import CostTable, SegmentCosts
from dse.detail import detail
from dse.mapped_work import MappedWork
from dse.prediction import intervals
from dse.search.bounds import SLOPES
from dse.simulate import simulate
from dse.space import DesignPoint, design_id
from dse.teams import TeamCosts
from dse.timeline import Timeline
from solvers.mapping.bounds import lower_bounds
from solvers.mapping.problem import Mapping as SegmentMapping
from solvers.mapping.solve import solve_mapping
from solvers.placement.problem import Outline, Placement, PlacementProblem
from solvers.placement.solve import solve_placement


class Unmappable(Exception):
    """The design has no mapping: the message says which constraint, by how much, and what would meet it."""


class Unmapped(Exception):
    """No mapping was found that holds in the simulation, though none was proven impossible."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """All that a worker needs to evaluate any design of one study. Costs hold every chip type of the space."""

    costs: Mapping[tuple[Precision, int], SegmentCosts]  # by precision and batch
    library: ChipLibrary
    regime: Literal["serial", "pipelined"]
    inputs: int  # simulated, in the pipelined regime
    trade_offs: bool  # whether energy matters beside time: map for both ends and the middle
    deadline_s: float  # of one mapping: a guard, solvers stop by iteration counts
    seed: int

    def row(self, params: DesignPoint) -> dict[str, Any]:
        """Result row of one design. A failure is a row with its reason, never an exception."""
        started = time.perf_counter()
        row: dict[str, Any] = {
            "design": design_id(params),
            "params": params,
            "status": "ok",
            "reason": "",
            "points": [],
            "bounds": [],
        }
        try:
            table = self._table(params)
            row["bounds"] = self.bounds(table)
            row["points"] = self.points(table, params)
        except Unmappable as error:
            row |= {"status": "infeasible", "reason": str(error)}
        except Unmapped as error:
            row |= {"status": "unmapped", "reason": str(error)}
        except Exception as error:  # whatever a plug-in raises: the sweep goes on, the row says why
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        row["wall_s"] = round(time.perf_counter() - started, 6)
        return row

    def bounds(self, table: CostTable) -> list[list[float]]:
        """Half-planes [a, b, least], a*t + b*e >= least for every mapping and placement of these chips.

        t and e as objectives count them: of a batch in the serial regime, else (and energy always) of a sample. They
        are the mapping solvers' own bounds where every route is as short as the shortest of the package.
        """
        problem = table.mapping_problem(regime=self.regime, weights=(1.0, 0.0))
        apart = ~np.eye(problem.slots, dtype=bool)

        def least_of(routes: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(apart, routes[apart].min(), 0.0) if problem.slots > 1 else routes

        shortest = replace(
            problem,
            route_latency_ms=least_of(problem.route_latency_ms),
            route_ms_per_byte=least_of(problem.route_ms_per_byte),
            route_mj_per_byte=least_of(problem.route_mj_per_byte),
            route_links=np.zeros((problem.slots, problem.slots, 0), bool),
        )
        time_ms, energy_mj = lower_bounds(shortest, np.eye(2))
        if not np.isfinite([time_ms, energy_mj]).all():
            return []  # proven to have no mapping: the solvers say why
        weights, least = np.eye(2), np.array([time_ms, energy_mj])
        if self.trade_offs:
            slopes = np.array([(1.0 / max(time_ms, 1e-300), slope / max(energy_mj, 1e-300)) for slope in SLOPES])
            weights, least = np.vstack((weights, slopes)), np.append(least, lower_bounds(shortest, slopes))
        else:
            weights, least = weights[:1], least[:1]
        batch = table.segments.batch
        samples = np.array([batch if self.regime == "pipelined" else 1, batch])
        planes: list[list[float]] = np.column_stack((weights * samples, least)).tolist()
        return planes

    def points(self, table: CostTable, params: DesignPoint) -> list[dict[str, Any]]:
        """Map for time, for energy and for both; place and simulate each distinct mapping."""
        seed = _seed(self.seed, design_id(params))
        found = [self._map(table, params["mapper"], (1.0, 0.0), seed, None)]
        weights = [(1.0, 0.0)]
        if self.trade_offs:
            frugal = self._map(table, params["mapper"], (0.0, 1.0), seed, found[0])
            balanced = (1.0 / max(found[0].latency_ms, 1e-300), 1.0 / max(frugal.energy_mj, 1e-300))
            found += [frugal, self._map(table, params["mapper"], balanced, seed, frugal)]
            weights += [(0.0, 1.0), balanced]
        points: list[dict[str, Any]] = []
        refused: list[str] = []
        seen: set[bytes] = set()
        for (latency_weight, energy_weight), mapping in zip(weights, found, strict=True):
            if mapping.assignment.tobytes() in seen:
                continue
            seen.add(mapping.assignment.tobytes())
            if crowded := table.crowded(mapping.assignment):  # network rules: the mapping problem does not see them
                refused += crowded
                continue
            placement = place(table, mapping.assignment)
            timeline = self._simulate(table, mapping.assignment, placement)
            excess = timeline.peak_memory_bytes - table.system.capacity_bytes
            if excess.max() > 0:  # copies that wait for their consumer: the mapping problem does not see them
                refused.append(f"memory: slot {excess.argmax()} lacks {excess.max() / 1e6:,.1f} MB in the simulation")
                continue
            points.append(
                {
                    "metrics": timeline.metrics().as_dict(),
                    "assignment": mapping.assignment.tolist(),
                    "site": placement.site.tolist(),
                    "weights": [latency_weight, energy_weight],
                    "solver": mapping.solver,
                    "objective": mapping.objective,
                    "lower_bound": mapping.lower_bound,
                    "gap": mapping.gap,
                    "mapping_status": mapping.status,
                }
            )
        if not points:
            raise Unmapped("; ".join(dict.fromkeys(refused)))
        return points

    def intervals(self, row: Mapping[str, Any], point: int) -> dict[str, list[float]]:
        """Intervals of one point of a row, by metric: see dse.prediction.intervals."""
        table = self._table(row["params"])
        assignment = np.asarray(row["points"][point]["assignment"], np.int64)
        placement = place(table, assignment)
        timeline = self._simulate(table, assignment, placement)
        return {name: list(ends) for name, ends in intervals(timeline, placement).items()}

    def detail(self, row: Mapping[str, Any], point: int) -> dict[str, Any]:
        """One point of a row once more, with everything that a report shows of it (timelines/*.json)."""
        params, stored = row["params"], row["points"][point]
        table = self._table(params)
        assignment = np.asarray(stored["assignment"], np.int64)
        placement = place(table, assignment)
        timeline = self._simulate(table, assignment, placement)
        mapping = {
            name: stored[key]
            for name, key in (
                ("solver", "solver"),
                ("objective", "objective"),
                ("lower_bound", "lower_bound"),
                ("gap", "gap"),
                ("status", "mapping_status"),
            )
        }
        return {
            "design": row["design"],
            "point": point,
            "params": dict(params),
            **detail(timeline, table=table, placement=placement, mapping=mapping),
        }

    def _table(self, params: DesignPoint) -> CostTable:
        system = System.build(package=params["package"], chips=params["chips"], library=self.library)
        return CostTable.of(self.costs[Precision(params["precision"]), params["batch"]], system)

    def _map(
        self, table: CostTable, mapper: str, weights: tuple[float, float], seed: int, before: SegmentMapping | None
    ) -> SegmentMapping:
        mapping = solve_mapping(
            table.mapping_problem(regime=self.regime, weights=weights),
            solver=mapper,
            deadline_s=self.deadline_s,
            seed=seed,
            warm_start=None if before is None else before.assignment,
        )
        if not len(mapping.assignment):
            reasons = "; ".join(map(str, mapping.infeasibility))
            if mapping.status == "infeasible":
                raise Unmappable(reasons or f"proven infeasible by {mapping.solver}")
            raise Unmapped(f"{mapping.solver} found no mapping, and none was proven impossible")
        return mapping

    def _simulate(self, table: CostTable, assignment: NDArray[np.int64], placement: Placement) -> Timeline:
        return simulate(
            table.segments,
            assignment,
            table.system,
            placement,
            inputs=1 if self.regime == "serial" else self.inputs,
            regime=self.regime,
            table=table,
        )


def place(
    table: CostTable, assignment: NDArray[np.int64], *, teams: TeamCosts | None = None, solver: str = "grid"
) -> Placement:
    """Choose a package slot for each chip so that the bytes of this mapping travel short ways."""
    system, package = table.system, table.system.package
    occupied = np.asarray(system.occupied)
    traffic = MappedWork.of(table, assignment, teams).bytes_between(system.slots)[np.ix_(occupied, occupied)]
    chips = [system.chips[slot] for slot in occupied]
    return solve_placement(
        PlacementProblem(
            width_mm=np.array([chip.width_mm for chip in chips if chip]),
            height_mm=np.array([chip.height_mm for chip in chips if chip]),
            traffic_bytes=traffic,
            power_w=np.array([chip.tdp_w for chip in chips if chip]),
            outline=Outline(
                shape=package.shape, width_mm=package.width_mm, height_mm=package.height_mm, edge_mm=package.edge_mm
            ),
            sites=slot_centres(package),
            spacing_mm=package.spacing_mm,
            names=tuple(chip.name for chip in chips if chip),
        ),
        solver=solver,
    )


def in_place(table: CostTable) -> Placement:
    """Leave each chip in its own slot of the package, upright, as the mapping problem has it."""
    system, package = table.system, table.system.package
    occupied = np.asarray(system.occupied)
    centres = slot_centres(package)[occupied]
    size = np.array([(chip.width_mm, chip.height_mm) for chip in system.chips if chip is not None])
    return Placement(
        x_mm=centres[:, 0] - size[:, 0] / 2,
        y_mm=centres[:, 1] - size[:, 1] / 2,
        rotated=np.zeros(len(occupied), np.bool_),
        site=occupied,
        wirelength_byte_mm=0.0,
        lower_bound=0.0,
        status="feasible",
        solver="as given",
        wall_s=0.0,
    )


def _seed(study_seed: int, design: str) -> int:
    """A seed a design, the same for any number of workers and any order of evaluation."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}:{design}".encode()).digest()[:4], "big")
