"""Study: a YAML file that says what to vary and what matters; running it gives a front and a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from chiplib import ChipLibrary, load_library
from chiplib.validation import did_you_mean, read_yaml, validate
from dse.errors import DseError
from dse.provenance import environment
from dse.resolve import Resolved, resolve, said_of
from dse.store import RunFolder, write_atomically
from dse.study_file import Segmentation, StudyFile
from dse.sweep import Progress, Sweep
from dse.workers import Workers

__all__ = ["Progress", "Segmentation", "Study", "StudyResult"]

FINGERPRINTS = "; a fingerprint is that of the traced model, or of the datasheets of the chips and packages"
SHIPPED = Path(__file__).parent / "studies"


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
class Study(StudyFile):
    """A study that can be run."""

    @classmethod
    def load(cls, study: str | Path) -> Study:
        """Read a study that ships, by name, or a YAML file.

        Raises DseError naming the file and every wrong key.
        """
        path = SHIPPED / f"{study}.yaml"
        if not path.exists():
            path = Path(study)
            if not path.exists():
                names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
                near = did_you_mean(path.name, [*names, *(file.name for file in path.parent.glob("*.y*ml"))])
                hint = (
                    near if near.startswith("did") else f"a path to a YAML file, or one that ships: {', '.join(names)}"
                )
                raise DseError(f"no study {str(study)!r}", hint)
        loaded = validate(read_yaml(path, error=DseError), cls, str(path), error=DseError)
        beside = path.parent / loaded.library  # a path in a study is seen from the study's folder
        return replace(loaded, library=str(beside)) if beside.is_file() else loaded

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
        study = replace(
            self, seed=self.seed if seed is None else seed, budget=self.budget if budget is None else budget
        )
        started = time.perf_counter()
        with RunFolder.create(Path(out)) as folder:
            with said_of(study, "library"):
                library = study._library
            resolved = resolve(study, library)
            study._claim(folder, resolved)
            run = Sweep(study, resolved, folder, started, retry_failed, on_progress)
            with Workers(resolved.evaluator, workers) as pool:
                try:
                    run.search(pool)
                except KeyboardInterrupt:
                    run.finish()
                    raise
            return StudyResult(summary=run.finish(), folder=folder.path)

    def _claim(self, folder: RunFolder, resolved: Resolved) -> None:
        """Write what the run is; refuse a folder that holds another one."""
        settings = asdict(replace(self, budget=None, framework=resolved.software.framework or None))
        text = yaml.safe_dump(_plain(settings | resolved.fingerprints), sort_keys=False)
        path = folder.path / "study.yaml"
        if path.exists():
            old = read_yaml(path, error=DseError)
            new = yaml.safe_load(text)
            if keys := sorted(key for key in {*old, *new} if old.get(key) != new.get(key)):
                traced = any(key.endswith("fingerprint") for key in keys)
                raise DseError(
                    f"{folder.path} holds another run: {', '.join(keys)} changed since",
                    "another folder with --out, or remove this one" + (FINGERPRINTS if traced else ""),
                )
        else:
            write_atomically(path, text)
            folder.write("environment.json", environment(self.seed))
        folder.write("workload.json", resolved.workload)
        folder.write("library.json", resolved.datasheets)


def _plain(value: Any) -> Any:
    """Settings as YAML knows them: enums as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
