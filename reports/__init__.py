"""How to show a run: one HTML page, plots, tables, a Perfetto trace. Reads the run folder and nothing else.

>>> import reports
>>> reports.write("runs/htdemucs")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.compare_page import write_comparison
    from reports.design_page import write_design
    from reports.export import write_perfetto, write_tables
    from reports.page import write
    from reports.run import Run, read_run
    from reports.workload_page import write_workload

__all__ = [
    "Run",
    "read_run",
    "write",
    "write_comparison",
    "write_design",
    "write_perfetto",
    "write_tables",
    "write_workload",
]

_HOME = {
    "Run": "reports.run",
    "read_run": "reports.run",
    "write": "reports.page",
    "write_comparison": "reports.compare_page",
    "write_design": "reports.design_page",
    "write_perfetto": "reports.export",
    "write_tables": "reports.export",
    "write_workload": "reports.workload_page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
