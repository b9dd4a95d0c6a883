"""Progress of a run on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dse.study import Progress

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Give a function to call with each Progress; it draws on stderr and returns at once."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


def describe(progress: Progress) -> str:
    """Return what stands so far, in one line."""
    parts = [f"{progress.done:,} of {progress.total:,} designs", f"{progress.wall_s:.0f} s"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.eta_s is not None:
        parts.append(f"about {progress.eta_s:.0f} s left")
    if progress.epsilon is not None:
        parts.append(f"epsilon {100 * progress.epsilon:.3g} %")
    parts.append(f"hypervolume {progress.hypervolume:.4g}")
    parts.append(f"{progress.open_unmapped:,} open")
    if progress.infeasible:
        parts.append(f"{progress.infeasible:,} infeasible")
    return ", ".join(parts)


def _lines() -> Callable[[Progress], None]:
    last_time, last_phase = -SECONDS_BETWEEN_LINES, ""

    def report(progress: Progress) -> None:
        nonlocal last_time, last_phase
        now = time.monotonic()
        if now - last_time >= SECONDS_BETWEEN_LINES or (progress.phase != last_phase and now - last_time >= 1.0):
            click.echo(f"{progress.phase}: {describe(progress)}", err=True)
            last_time, last_phase = now, progress.phase

    return report


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    phase = TextColumn("{task.fields[phase]}", table_column=Column(no_wrap=True, min_width=8))
    columns = (SpinnerColumn(), phase, BarColumn(bar_width=12), TextColumn("{task.description}"))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, phase="starting")

        def report(progress: Progress) -> None:
            bars.update(
                task,
                completed=progress.total - progress.open_unmapped,  # mapped, or closed by their bounds
                total=progress.total or None,
                description=describe(progress),
                phase=progress.phase,
            )

        yield report


@contextmanager
def show_steps(phase: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """Give a function to call with the steps that are done and what runs; it draws on stderr, with the time left."""
    if not sys.stderr.isatty():
        yield _step_lines(phase, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(phase), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda done, doing: bars.update(task, completed=done, description=doing)


def _step_lines(phase: str, total: int | None) -> Callable[[int, str], None]:
    start = last = time.monotonic()

    def report(done: int, doing: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = f", about {(now - start) * (total / done - 1):.0f} s left" if total and done else ""
        of = f" of {total:,}" if total else ""
        click.echo(f"{phase}: {done:,}{of}, {now - start:.0f} s{left}, {doing}", err=True)

    return report
