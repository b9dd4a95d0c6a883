"""Sweep: one pass of the search over a run folder, answering from stored rows where they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dse.objectives import Objectives, hypervolume, knee, nondominated
from dse.resolve import Resolved
from dse.search.certified_search import CertifiedSearch
from dse.space import DesignPoint, design_id
from dse.store import RunFolder
from dse.study_file import StudyFile
from dse.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands. `epsilon` is None while nothing is proven, `eta_s` while it cannot be told."""

    phase: str
    done: int
    total: int  # designs that can be mapped
    infeasible: int
    failed: int
    open_unmapped: int
    epsilon: float | None
    hypervolume: float
    wall_s: float
    eta_s: float | None = None


class Sweep:
    """The state of a run: designs evaluated, points found, what they prove."""

    def __init__(
        self,
        study: StudyFile,
        resolved: Resolved,
        folder: RunFolder,
        started: float,
        retry_failed: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.study, self.resolved, self.folder, self.started = study, resolved, folder, started
        self.on_progress = on_progress
        self.objectives = Objectives(study.objectives, study.regime)
        self.search_state = CertifiedSearch(
            bounds=resolved.bounds,
            possible=resolved.possible.copy(),
            chips=resolved.designs.counts.sum(1).astype(np.int64),
            objectives=self.objectives,
            target=study.epsilon,
            rng=np.random.default_rng(study.seed),
        )
        self.stored = dict(folder.rows)
        if retry_failed:
            self.stored = {key: row for key, row in self.stored.items() if row["status"] != "failed"}
        # a budget below what the folder holds takes nothing back
        self.budget = None if study.budget is None else max(study.budget, len(folder.rows))
        self.rows: dict[str, dict[str, Any]] = {}
        self.reference: np.ndarray[Any, np.dtype[np.float64]] | None = None
        self.volume = 0.0
        self.history: list[dict[str, Any]] = []
        self.evaluated_now = 0

    def search(self, pool: Workers) -> None:
        """Evaluate batch after batch until nothing is open or the budget is spent."""
        batches = self.search_state.batches()
        batch = next(batches, None)
        self.report()
        while batch is not None and len(batch):
            if self.budget is not None:
                batch = batch[: self.budget - len(self.rows)]
            rows = self.evaluate(pool, [self.resolved.designs[int(i)] for i in batch])
            if self.budget is not None and len(self.rows) >= self.budget:
                self.search_state.learn(batch, rows)
                self.note()
                break
            try:
                batch = batches.send(rows)
            except StopIteration:
                batch = None
            self.note()

    def evaluate(self, pool: Workers, designs: list[DesignPoint]) -> list[dict[str, Any]]:
        """Rows of one batch, from the folder or from the workers, in order."""
        ids = [design_id(params) for params in designs]
        missing = [params for key, params in zip(ids, designs, strict=True) if key not in self.stored]
        for key in ids:
            if key in self.stored:
                self.rows[key] = self.stored[key]
        last = time.perf_counter()
        for row in pool.rows(missing):
            self.folder.append(row)
            self.rows[row["design"]] = row
            self.evaluated_now += 1
            if time.perf_counter() - last > 0.2:
                last = time.perf_counter()
                self.report()
        self.folder.sync()
        return [self.rows[key] for key in ids]

    def points(self) -> list[dict[str, Any]]:
        """Every point found so far: design, point, params, metrics."""
        return [
            {"design": row["design"], "point": number, "params": row["params"], "metrics": point["metrics"]}
            for row in self.rows.values()
            for number, point in enumerate(row["points"])
        ]

    def note(self) -> None:
        """Add a line to the history: how far the search and the proof are."""
        criteria = self.objectives.criteria([point["metrics"] for point in self.points()])
        if self.reference is None and len(criteria):
            self.reference = 1.1 * criteria.max(0)
        self.volume = 0.0 if self.reference is None else hypervolume(criteria, self.reference)
        self.history.append(
            {
                "evaluated": len(self.rows),
                "wall_s": round(time.perf_counter() - self.started, 3),
                "hypervolume": self.volume,
                "epsilon": self.search_state.epsilon,
                "open_unmapped": self.search_state.open_unmapped,
            }
        )
        self.report()

    def report(self) -> None:
        """Tell the caller where the run stands."""
        if self.on_progress is None:
            return
        state, wall_s = self.search_state, time.perf_counter() - self.started
        rate = self.evaluated_now / wall_s if self.evaluated_now else 0.0
        self.on_progress(
            Progress(
                phase=state.phase,
                done=len(self.rows),
                total=int(state.possible.sum()),
                infeasible=len(state.possible) - int(state.possible.sum()),
                failed=sum(row["status"] == "failed" for row in self.rows.values()),
                open_unmapped=state.open_unmapped,
                epsilon=state.epsilon,
                hypervolume=self.volume,
                wall_s=wall_s,
                eta_s=state.open_unmapped / rate if rate and state.phase == "search" else None,
            )
        )

    def finish(self) -> dict[str, Any]:
        """Write summary.json and the timelines of the points that a report shows; return the summary."""
        state = self.search_state
        state.tighten(np.flatnonzero(state.possible))
        points = self.points()
        criteria = self.objectives.criteria([point["metrics"] for point in points])
        chosen = nondominated(criteria)
        chosen = chosen[np.lexsort(criteria[chosen].T[::-1])]
        evaluator = self.resolved.evaluator
        front = [
            points[i] | {"intervals": evaluator.intervals(self.rows[points[i]["design"]], points[i]["point"])}
            for i in chosen
        ]
        reasons = Counter(str(reason) for reason in self.resolved.reason[~self.resolved.possible])
        reasons.update(row["reason"] for row in self.rows.values() if row["status"] == "infeasible")
        failures = Counter(row["reason"] for row in self.rows.values() if row["status"] in ("failed", "unmapped"))
        best = knee(criteria[chosen]) if front else None
        summary: dict[str, Any] = {
            "study": self.study.name,
            "workload": self.study.workload,
            "objectives": list(self.study.objectives),
            "regime": self.study.regime,
            "model": self.study.model,
            "prediction": self.resolved.prediction,
            "designs": len(self.resolved.designs),
            "infeasible": len(state.possible) - int(state.possible.sum()),
            "evaluated": len(self.rows),
            "failed": sum(row["status"] == "failed" for row in self.rows.values()),
            "unmapped": sum(row["status"] == "unmapped" for row in self.rows.values()),
            "ruled_out": int((state.possible & ~state.mapped).sum()) - state.open_unmapped,
            "open_unmapped": state.open_unmapped,
            "epsilon": state.epsilon,
            "epsilon_basis": self._basis(),
            "hypervolume": self.volume,
            "reference_point": None if self.reference is None else self.objectives.metrics(self.reference),
            "front": front,
            "knee": None if best is None else {key: front[best][key] for key in ("design", "point")},
            "history": self.history,
            "infeasible_reasons": dict(reasons.most_common()),
            "failed_reasons": dict(failures.most_common()),
            "damaged_rows": self.folder.damaged,
            "wall_s": round(time.perf_counter() - self.started, 3),
        }
        self.folder.write("summary.json", summary)
        if front:
            ends = {int(column) for column in criteria[chosen].argmin(0)} | {int(best or 0)}
            for i in sorted(ends):
                detail = evaluator.detail(self.rows[front[i]["design"]], front[i]["point"])
                self.folder.write(f"timelines/{front[i]['design']}-{front[i]['point']}.json", detail)
        return summary

    def _basis(self) -> str:
        """In a sentence, what the proven epsilon rests on."""
        if self.objectives.unbounded:
            names = ", ".join(self.objectives.unbounded)
            return f"Nothing is proven: there is no lower bound for {names}."
        if not self.search_state.possible.any():
            return "Nothing is proven: no design of the space can be mapped."
        if self.search_state.epsilon is None:
            return "Nothing is proven yet: some designs are neither mapped nor bounded by a point that costs no more."
        return (
            "Lower bounds by the layer cost model on every mapping and placement of every design; "
            "link contention can only add to them."
        )
