"""A mixed-integer linear model as sparse arrays, solved by OR-tools' MathOpt: HiGHS, SCIP, and GLOP for plain LPs."""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

Backend = Literal["highs", "gscip", "glop"]
Ids = NDArray[np.int64]

FEASIBILITY = 1e-9  # of rows, bounds and integers; the defaults of 1e-6 let a slot be a millionth too full
SEED_RANGE = 2**31  # what the solvers take as a seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """What a solver makes of a model."""

    status: Literal["optimal", "feasible", "infeasible", "unknown"]
    values: NDArray[np.float64] | None  # [N] of the best solution
    bound: float  # on the objective, as the solver states it: -inf where it has none
    duals: NDArray[np.float64] | None = None  # [R], of an LP


@dataclass(slots=True, eq=False)
class LinearModel:
    """Least sum of cost * value, subject to rows of lower <= sum of coefficient * value <= upper."""

    columns: int = 0
    row_count: int = 0
    _columns: list[tuple[NDArray[Any], ...]] = field(default_factory=list)  # lower, upper, integer, cost
    _costs: list[tuple[Ids, NDArray[np.float64]]] = field(default_factory=list)
    _bounds: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    _cells: list[tuple[Ids, Ids, NDArray[np.float64]]] = field(default_factory=list)

    def add_columns(
        self,
        count: int,
        *,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = 1.0,
        integer: bool = False,
        cost: ArrayLike = 0.0,
    ) -> Ids:
        """Add variables; return their numbers [count]."""
        given = (lower, float), (upper, float), (integer, bool), (cost, float)
        self._columns.append(tuple(np.broadcast_to(np.asarray(v, dtype=kind), (count,)) for v, kind in given))
        self.columns += count
        return np.arange(self.columns - count, self.columns)

    def add_cost(self, columns: ArrayLike, cost: ArrayLike) -> None:
        """Add to the cost of variables; more than once for the same adds up."""
        self._costs.append((np.asarray(columns, dtype=np.int64), np.asarray(cost, dtype=np.float64)))

    def add_rows(
        self,
        count: int,
        rows: ArrayLike,
        columns: ArrayLike,
        coefficients: ArrayLike,
        *,
        lower: ArrayLike = -np.inf,
        upper: ArrayLike = np.inf,
    ) -> Ids:
        """Add `count` rows from their cells [N] (rows numbered from 0); return the numbers of the rows.

        Cells of the same row and column add up.
        """
        row, column = np.broadcast_arrays(np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64))
        value = np.broadcast_to(np.asarray(coefficients, dtype=float), row.shape)
        self._cells.append((row.ravel() + self.row_count, column.ravel(), value.ravel()))
        low, high = (np.broadcast_to(np.asarray(v, dtype=float), (count,)) for v in (lower, upper))
        self._bounds.append((low, high))
        self.row_count += count
        return np.arange(self.row_count - count, self.row_count)

    def solve(
        self,
        backend: Backend,
        *,
        deadline_s: float,
        seed: int = 0,
        hint: NDArray[np.float64] | None = None,
        gap: float = 0.0,
        nodes: int | None = None,
    ) -> Solved:
        """Solve with one thread, to a relative gap, in so many nodes. `hint` [N] may hold nan where nothing is known.

        A `glop` model is solved as an LP, whatever is integer; it returns duals. `deadline_s` may be inf.
        """
        from ortools.math_opt.python import mathopt

        started = perf_counter()
        model = mathopt.Model.from_model_proto(self._proto(relaxed=backend == "glop"))
        variables = list(model.variables())
        hints = []
        if hint is not None:
            known = np.flatnonzero(np.isfinite(hint)).tolist()
            hints.append(mathopt.SolutionHint(variable_values={variables[n]: float(hint[n]) for n in known}))
        left_s = max(deadline_s - (perf_counter() - started), 0.01)
        with _quiet():
            result = mathopt.solve(
                model,
                getattr(mathopt.SolverType, backend.upper()),
                params=_parameters(backend, left_s, seed, gap, nodes),
                model_params=mathopt.ModelSolveParameters(solution_hints=hints),
            )
        found = result.has_primal_feasible_solution()
        values = np.array(result.variable_values(variables)) if found else None
        reason, reasons = result.termination.reason, mathopt.TerminationReason
        status: Literal["optimal", "feasible", "infeasible", "unknown"] = "feasible" if found else "unknown"
        if reason == reasons.OPTIMAL:
            status = "optimal"
        elif reason in (reasons.INFEASIBLE, reasons.INFEASIBLE_OR_UNBOUNDED) and not found:
            status = "infeasible"
        return Solved(
            status=status,
            values=values,
            bound=float(result.termination.objective_bounds.dual_bound),
            duals=np.array(result.dual_values(list(model.linear_constraints())))
            if backend == "glop" and result.has_dual_feasible_solution()
            else None,
        )

    def _proto(self, *, relaxed: bool) -> Any:
        from ortools.math_opt import model_pb2

        proto = model_pb2.ModelProto()
        lower, upper, integer, cost = (np.concatenate(part) for part in zip(*self._columns, strict=True))
        cost = cost.copy()
        for columns, more in self._costs:
            np.add.at(cost, columns, more)
        proto.variables.ids.extend(range(self.columns))
        proto.variables.lower_bounds.extend(lower.tolist())
        proto.variables.upper_bounds.extend(upper.tolist())
        proto.variables.integers.extend([False] * self.columns if relaxed else integer.tolist())
        priced = np.flatnonzero(cost)
        proto.objective.linear_coefficients.ids.extend(priced.tolist())
        proto.objective.linear_coefficients.values.extend(cost[priced].tolist())
        if self.row_count:
            low, high = (np.concatenate(part) for part in zip(*self._bounds, strict=True))
            row, column, value = (np.concatenate(part) for part in zip(*self._cells, strict=True))
            place, cell = np.unique(row * self.columns + column, return_inverse=True)
            summed = np.bincount(cell, weights=value, minlength=len(place))
            keep = summed != 0
            proto.linear_constraints.ids.extend(range(self.row_count))
            proto.linear_constraints.lower_bounds.extend(low.tolist())
            proto.linear_constraints.upper_bounds.extend(high.tolist())
            proto.linear_constraint_matrix.row_ids.extend((place[keep] // self.columns).tolist())
            proto.linear_constraint_matrix.column_ids.extend((place[keep] % self.columns).tolist())
            proto.linear_constraint_matrix.coefficients.extend(summed[keep].tolist())
        return proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what C code prints off standard output, which belongs to the caller.

    HiGHS as of OR-tools 9.15 prints a line of its debugging whatever its log settings are.
    """
    c_library = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        c_library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _parameters(
    backend: Backend, deadline_s: float, seed: int, gap: float, nodes: int | None
) -> mathopt.SolveParameters:
    """One thread, no gap left on purpose, and rows, bounds and integers met to FEASIBILITY."""
    from ortools.math_opt.python import mathopt

    limit = dt.timedelta(seconds=deadline_s) if deadline_s < np.inf else None
    parameters = mathopt.SolveParameters(time_limit=limit, random_seed=seed % SEED_RANGE, node_limit=nodes)
    if backend == "highs":  # whose threads MathOpt does not set
        parameters.highs.int_options["threads"] = 1
        parameters.highs.string_options["parallel"] = "off"
        for name in ("mip_feasibility_tolerance", "primal_feasibility_tolerance", "dual_feasibility_tolerance"):
            parameters.highs.double_options[name] = FEASIBILITY
    else:
        parameters.threads = 1
    if backend == "gscip":
        parameters.gscip.real_params["numerics/feastol"] = FEASIBILITY
    if backend != "glop":
        parameters.relative_gap_tolerance, parameters.absolute_gap_tolerance = gap, 0.0
    return parameters
