"""The disk cache of traced graphs: one JSON file a graph, named by the hash of all that went into it."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.graph import WorkloadGraph


def folder() -> Path:
    """Return the cache folder: CHIPFRONT_CACHE, else chipfront in XDG_CACHE_HOME, else ~/.cache/chipfront."""
    if chosen := os.environ.get("CHIPFRONT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache")).expanduser() / "chipfront"


def path(name: str, key: str) -> Path:
    """Return the file of the graph called `name` with content hash `key`."""
    return folder() / "graphs" / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{key}.json"


def read(name: str, key: str) -> WorkloadGraph | None:
    """Return the stored graph, or None where there is none or the file is damaged (it is then made again)."""
    try:
        return WorkloadGraph.from_json(path(name, key).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, WorkloadError):
        return None


def write(name: str, key: str, graph: WorkloadGraph) -> None:
    """Store a graph. A folder that cannot be written is a warning: the cache only saves time."""
    target = path(name, key)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=target.stem, suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(graph.to_json())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(
            f"the traced graph {name} is not cached: {error} (set CHIPFRONT_CACHE to a folder that can be written)",
            RuntimeWarning,
            stacklevel=3,
        )
