"""Case: a problem to compare solvers on, with the names of its parts; and a comparison as rows and JSON types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dse.compare import Answer, Comparison, excess
from solvers.formats.instance import devices_of
from solvers.mapping.problem import MappingProblem

if TYPE_CHECKING:
    from dse.cost_table import CostTable, Objective
    from solvers.formats import Instance


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A problem, what its objective is measured in, and how its assignments are told."""

    name: str
    problem: MappingProblem
    unit: str  # of the objective; empty for a bare number
    source: str  # format of the file, or "workload"
    tell: Callable[[NDArray[np.int64]], dict[str, Any]]  # modes [K] -> name of a segment -> number of its device
    best_known: float | None = None


def cases_of_instances(instances: Iterable[Instance]) -> list[Case]:
    """Return instances as cases, named by the paths that they were given by."""
    unique: dict[str, Case] = {}
    for instance in instances:
        unique[str(instance.path)] = Case(
            name=str(instance.path),
            problem=instance.problem,
            unit=instance.unit,
            source=instance.format,
            tell=instance.assignment_of,
            best_known=instance.best_known,
        )
    return list(unique.values())


def case_of_table(table: CostTable, *, name: str, objective: Objective, **terms: Any) -> Case:
    """Return the mapping of a cost table's segments as a case; its devices are the package's slots.

    `terms` are further words of `CostTable.mapping_problem`, which raises DseError for an unknown objective.
    """
    problem = table.mapping_problem(objective, **terms)
    return Case(
        name=name,
        problem=problem,
        unit="mJ" if objective == "energy" else "ms",
        source="workload",
        tell=lambda modes: {str(k): devices_of(problem, mode) for k, mode in enumerate(modes.tolist())},
    )


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return each name -> the shortest end of its path that tells it apart, without a suffix."""
    paths = {name: Path(name) for name in names}
    longest = max((len(path.parts) for path in paths.values()), default=1)
    short: dict[str, str] = {}
    for name, path in paths.items():
        for many in range(1, longest + 1):
            ends = [tuple(other.parts[-many:]) for other in paths.values()]
            if ends.count(tuple(path.parts[-many:])) == 1 or many == longest:
                parts = path.parts[-many:]
                short[name] = "/".join((*parts[:-1], path.stem if path.suffix in SUFFIXES else path.name))
                break
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


SUFFIXES = (".json", ".txt", ".dat")


def row_of(answer: Answer, case: Case, best_known: float | None) -> dict[str, Any]:
    """Return an answer as a flat row of numbers and words; None for what it does not have."""
    return {
        "instance": answer.instance,
        "solver": answer.solver,
        "seed": answer.seed,
        "objective": answer.objective,
        "lower_bound": answer.lower_bound,
        "gap": answer.gap,
        "status": answer.status,
        "wall_s": answer.wall_s,
        "cpu_s": answer.cpu_s,
        "contiguous": case.problem.contiguous,
        "regime": case.problem.regime,
        "unit": case.unit,
        "latency_ms": answer.latency_ms,
        "energy_mj": answer.energy_mj,
        "best_known": best_known,
        "to_best": excess(answer.objective, best_known),
        "reason": answer.reason,
    }


def as_dict(comparison: Comparison, cases: Sequence[Case], *, assignments: bool = False) -> dict[str, Any]:
    """Return a comparison as dicts and lists: rows, sums over seeds and problems, and what they rest on.

    With `assignments` a row holds `assignment` (segment -> number of its device, null where there is none), and
    `order` (segments in the order in which devices run them) where the problem leaves that free.
    """
    by_name = {case.name: case for case in cases}
    rows = []
    for answer in comparison.answers:
        case = by_name[answer.instance]
        row = row_of(answer, case, comparison.best_known.get(case.name))
        row["history"] = [asdict(line) for line in answer.history]
        if assignments:
            row["assignment"] = None if answer.assignment is None else case.tell(answer.assignment)
            if answer.order is not None:
                names = list(case.tell(np.zeros(case.problem.segments, dtype=np.int64)))
                row["order"] = [names[k] for k in answer.order.tolist()]
        rows.append(row)
    return {
        "rows": rows,
        "summaries": [asdict(summary) for summary in comparison.summaries()],
        "standings": [asdict(standing) for standing in comparison.standings()],
        "instances": [
            {
                "name": case.name,
                "source": case.source,
                "segments": case.problem.segments,
                "edges": len(case.problem.edges),
                "slots": case.problem.slots,
                "regime": case.problem.regime,
                "contiguous": case.problem.contiguous,
                "unit": case.unit,
                "best_known": comparison.best_known.get(case.name),
                "best": comparison.best(case.name),
                "lower_bound": comparison.bound(case.name),
            }
            for case in cases
        ],
        "contradictions": comparison.contradictions(),
        "solvers": list(comparison.solvers),
        "seeds": list(comparison.seeds),
        "deadline_s": comparison.deadline_s,
        "interrupted": comparison.interrupted,
    }
