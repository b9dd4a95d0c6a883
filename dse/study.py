"""Study: a YAML file that says what to vary and what matters; running it gives a front and a run folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml

import workloads
from chiplib import ChipLibrary, load_library
from chiplib.validation import read_yaml, validate
from dse.errors import DseError
from dse.objectives import Objectives, hypervolume, knee, nondominated
from dse.provenance import environment
from dse.resolve import Resolved, resolve
from dse.search.certified_search import CertifiedSearch
from dse.space import DesignSpace, design_id
from dse.store import RunFolder, write_atomically
from dse.workers import Workers

SHIPPED = Path(__file__).parent / "studies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """How layers are cut into segments: exactly one of the three (see workloads.build_segments)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    segment_size: int | None = None
    depth: int | None = None
    count: int | None = None


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


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a run found: the summary as written to summary.json, and where the run folder is."""

    summary: dict[str, Any]
    folder: Path

    @property
    def front(self) -> list[dict[str, Any]]:
        """Points of the front: design, point, params, metrics."""
        front: list[dict[str, Any]] = self.summary["front"]
        return front


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to vary (`space`), what matters (`objectives`), and how it is judged."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    workload: str  # of the catalogue, or package.module:factory
    library: str  # that ships, or a path
    objectives: tuple[str, ...]
    space: DesignSpace = field(default_factory=DesignSpace)
    segments: Segmentation = field(default_factory=lambda: Segmentation(segment_size=4))
    model: str = "roofline"
    regime: Literal["serial", "pipelined"] = "serial"
    inputs: int = 32  # simulated, in the pipelined regime
    epsilon: float = 0.0  # an unmapped design is closed when it cannot be better by more than this
    mapping_deadline_s: float = 10.0
    budget: int | None = None  # designs to evaluate in all
    seed: int = 0

    def __post_init__(self) -> None:
        Objectives(self.objectives, self.regime)
        for key, value, least in (("inputs", self.inputs, 1), ("epsilon", self.epsilon, 0)):
            if value < least:
                raise DseError(f"{key} is {value}", f"at least {least}")
        if self.mapping_deadline_s <= 0:
            raise DseError(f"mapping_deadline_s is {self.mapping_deadline_s}", "a time in seconds above 0")
        if self.budget is not None and self.budget < 1:
            raise DseError(f"budget is {self.budget}", "at least 1 design, or leave it out for no limit")

    @classmethod
    def load(cls, study: str | Path) -> Study:
        """Read a study that ships, by name, or a YAML file.

        Raises DseError naming the file and every wrong key.
        """
        path = SHIPPED / f"{study}.yaml"
        if not path.exists():
            path = Path(study)
            if not path.exists():
                names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
                raise DseError(f"no study {str(study)!r}", f"a path to a YAML file, or one that ships: {names}")
        data = read_yaml(path, error=DseError)
        return validate(data, cls, str(path), error=DseError)

    @cached_property
    def _library(self) -> ChipLibrary:
        return load_library(self.library)

    def run(
        self,
        out: str | Path,
        *,
        workers: int = 1,
        budget: int | None = None,
        seed: int | None = None,
        retry_failed: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> StudyResult:
        """Run, or resume, this study in the folder `out`.

        The budget is a total: a folder that holds part of the run is continued to it, and the result is the same as
        that of a run that was never stopped. More than one worker process needs the caller to be importable (the usual
        `if __name__ == "__main__"` of scripts). Ctrl-C writes the summary of what is done, then raises on.
        """
        study = replace(self, seed=self.seed if seed is None else seed, budget=budget or self.budget)
        started = time.perf_counter()
        with RunFolder.create(Path(out)) as folder:
            resolved = resolve(study, study._library)
            study._claim(folder, resolved)
            run = _Run(study, resolved, folder, started, retry_failed, on_progress)
            with Workers(resolved.evaluator, workers) as pool:
                try:
                    run.search(pool)
                except KeyboardInterrupt:
                    run.finish()
                    raise
            return StudyResult(summary=run.finish(), folder=folder.path)

    def _claim(self, folder: RunFolder, resolved: Resolved) -> None:
        """Write what the run is; refuse a folder that holds another one."""
        settings = asdict(replace(self, budget=None))
        text = yaml.safe_dump(_plain(settings | {"fingerprint": resolved.fingerprint}), sort_keys=False)
        path = folder.path / "study.yaml"
        if path.exists():
            old = read_yaml(path, error=DseError)
            new = yaml.safe_load(text)
            if old != new:
                keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
                raise DseError(
                    f"{folder.path} holds another run: {', '.join(keys)} changed since",
                    "another folder with --out, or remove this one",
                )
        else:
            write_atomically(path, text)
            folder.write("environment.json", environment(self.seed))
        folder.write("workload.json", resolved.workload)
        folder.write("library.json", resolved.datasheets)


class _Run:
    """One pass of the search over a run folder, answering from stored rows where they are."""

    def __init__(
        self,
        study: Study,
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
            if self.study.budget is not None:
                batch = batch[: self.study.budget - len(self.rows)]
            rows = self.evaluate(pool, [self.resolved.designs.params(int(i)) for i in batch])
            if self.study.budget is not None and len(self.rows) >= self.study.budget:
                self.search_state.learn(batch, rows)
                self.note()
                break
            try:
                batch = batches.send(rows)
            except StopIteration:
                batch = None
            self.note()

    def evaluate(self, pool: Workers, designs: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
        front = [points[i] for i in chosen]
        reasons = Counter(str(reason) for reason in self.resolved.reason[~self.resolved.possible])
        reasons.update(row["reason"] for row in self.rows.values() if row["status"] == "infeasible")
        best = knee(criteria[chosen]) if front else None
        summary: dict[str, Any] = {
            "study": self.study.name,
            "workload": self.study.workload,
            "objectives": list(self.study.objectives),
            "regime": self.study.regime,
            "model": self.study.model,
            "designs": len(self.resolved.designs),
            "infeasible": len(state.possible) - int(state.possible.sum()),
            "evaluated": len(self.rows),
            "failed": sum(row["status"] == "failed" for row in self.rows.values()),
            "unmapped": sum(row["status"] == "unmapped" for row in self.rows.values()),
            "open_unmapped": state.open_unmapped,
            "epsilon": state.epsilon,
            "epsilon_basis": self._basis(),
            "hypervolume": self.volume,
            "reference_point": None if self.reference is None else self.reference.tolist(),
            "front": front,
            "knee": None if best is None else {key: front[best][key] for key in ("design", "point")},
            "history": self.history,
            "infeasible_reasons": dict(reasons.most_common()),
            "damaged_rows": self.folder.damaged,
            "wall_s": round(time.perf_counter() - self.started, 3),
        }
        self.folder.write("summary.json", summary)
        if front:
            ends = {int(column) for column in criteria[chosen].argmin(0)} | {int(best or 0)}
            for i in sorted(ends):
                detail = self.resolved.evaluator.detail(self.rows[front[i]["design"]], front[i]["point"])
                self.folder.write(f"timelines/{front[i]['design']}-{front[i]['point']}.json", detail)
        return summary

    def _basis(self) -> str:
        """In a sentence, what the proven epsilon rests on."""
        state = self.search_state
        if self.objectives.unbounded:
            names = ", ".join(self.objectives.unbounded)
            return f"Nothing is proven: there is no lower bound for {names}."
        if state.epsilon is None:
            return "Nothing is proven yet: some designs are neither mapped nor bounded by a point that costs no more."
        return (
            "No mapping or placement of any design in the space beats every point of the front by more than this share "
            "in all objectives, by the lower bounds of the layer cost model; link contention and simulation can only "
            "add to them."
        )


def _plain(value: Any) -> Any:
    """Settings as YAML knows them: enums as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


__all__ = ["Progress", "Segmentation", "Study", "StudyResult", "workloads"]
