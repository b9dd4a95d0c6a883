"""`dse compare`: mapping solvers side by side on the same problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dse.cli.app import InputError, Interrupted
from dse.cli.design import COST_OPTIONS, PROBLEM_OPTIONS, team_options
from dse.cli.output import emit_json
from dse.cli.progress import show_steps

if TYPE_CHECKING:
    from dse.compare import Comparison
    from dse.compared import Case

COSTING = (
    *("library", "precision", "batch", "model", "framework", "timer", "count", "segment_size", "depth"),
    *("mode", "optimizer", "recompute"),
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PATH = click.Path(exists=True, path_type=Path)

OPTIONS = (
    click.option("--workload", metavar="W", help="A workload of the catalogue, or MODULE:FACTORY."),
    click.option("--system", metavar="PACKAGE:CHIPS", help="Such as interposer_2x2:big_core,small_core."),
    click.option("--package", help="In place of --system: a package of the library, see `dse systems`."),
    click.option("--chips", help="With --package: chips in slot order, joined by commas."),
    click.option(
        "--instances", "instances", multiple=True, type=PATH, metavar="PATH...", help="Files or folders of instances."
    ),
    click.argument("more", nargs=-1, type=PATH, metavar="[PATH]..."),
    click.option("--solver", "solvers", multiple=True, metavar="NAME", help="Repeat for several.  [default: all]"),
    click.option(
        "--deadline",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="Seconds a solver and problem.",
    ),
    click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of a solver each."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="The first of them."),
    click.option(
        "--contiguous/--free",
        default=None,
        help="Slots are stages of a pipeline, or not.  [default: free; pipedream: contiguous]",
    ),
    click.option(
        "--objective",
        type=click.Choice(["latency", "energy", "throughput"]),
        help="What to make best.  [default: latency; of device placement files what their folder says]",
    ),
    click.option(
        "--max-latency",
        "max_latency_ms",
        type=click.FloatRange(min=0),
        default=float("inf"),
        metavar="MS",
        help="Of a workload: latency (of a stream of inputs, period) is at most this.",
    ),
    click.option(
        "--max-energy",
        "max_energy_mj",
        type=click.FloatRange(min=0),
        default=float("inf"),
        metavar="MJ",
        help="Of a workload: energy of an input is at most this.",
    ),
    click.option("--deterministic", is_flag=True, help="Count deadlines in work: the same answers on every machine."),
    click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Solvers at a time."),
    click.option("--assignments", is_flag=True, help="With --json: where each segment runs."),
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write the rows as CSV and Parquet, and a page with plots.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
)
INSTANCE_OPTIONS = (
    click.option("--format", "format_", metavar="NAME", help="Of the instances.  [default: told from their content]"),
    click.option("--best-known", type=FILE, help="CSV with columns instance, best_known.  [default: one beside them]"),
    click.option("--devices", type=click.IntRange(min=1), help="Workers of a pipedream profile."),
    click.option(
        "--bandwidth", type=click.FloatRange(min=0, min_open=True), help="GB/s of a worker of a pipedream profile."
    ),
    click.option("--memory", type=click.FloatRange(min=0), help="GB of a worker of a pipedream profile."),
    click.option("--replicas", type=click.IntRange(min=1), help="Most workers of one stage of a pipedream profile."),
)


@click.command()
def command(as_json: bool, assignments: bool, out: Path | None, **words: Any) -> None:
    """Run mapping solvers on the same problems and show who finds and proves what.

    A problem is a workload on a system, or an instance of the literature: device placement and PipeDream profiles,
    generalised assignment, quadratic assignment (QAPLIB), task graphs. Every mapping is checked again; a solver that
    crashes, hangs or is missing is a row with its reason.

    \b
    Examples:
      dse compare --workload resnet18 --system interposer_2x2:big_core,small_core --segments 20
      dse compare --workload resnet18 --mode train --objective throughput --system interposer_2x2:big_core,big_core
      dse compare --instances instances/ --solver greedy --solver cp_sat --deadline 60 --contiguous --out compared
      dse compare --instances nug30.txt sko64.txt --seeds 5 --json
    """
    from dse.cli.compare_view import show_comparison
    from dse.compare import compare
    from dse.compared import as_dict

    cases, notes = _cases(words)
    seeds = range(words["seed"], words["seed"] + words["seeds"])
    names = _solvers(words["solvers"])
    with show_steps("compare", len(cases) * len(names) * len(seeds)) as report:
        comparison = compare(
            {case.name: case.problem for case in cases},
            names,
            deadline_s=words["deadline"],
            seeds=tuple(seeds),
            deterministic=words["deterministic"],
            workers=words["workers"],
            best_known={case.name: case.best_known for case in cases if case.best_known is not None},
            report=report,
        )
    answer = as_dict(comparison, cases, assignments=assignments)
    page = _write(comparison, cases, out) if out is not None and comparison.answers else None
    if as_json:
        emit_json(answer | {"page": None if page is None else str(page)})
    else:
        show_comparison(comparison, cases)
    for note in [*notes, *(f"warning: {said}" for said in comparison.contradictions())]:
        click.echo(note, err=True)
    if page is not None and not as_json:
        click.echo(f"The page is {page}.")
    if comparison.interrupted:
        total = len(cases) * len(names) * len(seeds)
        raise Interrupted(f"{len(comparison.answers)} of {total} answers are shown; the others were not waited for")


for _option in (*OPTIONS, *INSTANCE_OPTIONS, *COST_OPTIONS, *PROBLEM_OPTIONS):
    command = _option(command)
command = team_options(command)


def _cases(words: dict[str, Any]) -> tuple[list[Case], list[str]]:
    """Return the problems that the words ask for, and what to say of files that are none."""
    from dse.compared import cases_of_instances

    paths = (*words["instances"], *words["more"])
    if words["more"] and not words["instances"]:
        raise click.UsageError(f"unexpected argument {str(words['more'][0])!r}: files are given by --instances PATH...")
    if bool(paths) == bool(words["workload"]):
        raise click.UsageError("give either --workload and --system, or --instances PATH...")
    if not paths:
        _refuse(("format_", "best_known", "devices", "bandwidth", "memory", "replicas"), "--instances")
        return [_workload_case(words)], []
    _refuse(
        (
            *("system", "package", "chips", *COSTING, "max_latency_ms", "max_energy_mj"),
            *("teams", "replicate", "free_order", "micro_batches"),
        ),
        "--workload",
    )
    if words["objective"] == "energy":
        raise click.UsageError("--objective energy is of a workload: instances have latency or throughput")
    from solvers.formats import Reading, read_instances

    reading = Reading(
        goal=words["objective"],
        contiguous=words["contiguous"],
        devices=words["devices"],
        bandwidth_gb_s=words["bandwidth"],
        memory_gb=words["memory"],
        replicas=words["replicas"],
    )
    found = read_instances(paths, reading, format=words["format_"], best_known=words["best_known"])
    notes = []
    if found.others:
        shown = ", ".join(path.name for path in found.others[:4]) + (", ..." if len(found.others) > 4 else "")
        many = f"{len(found.others)} files" if len(found.others) > 1 else "1 file"
        notes.append(f"left aside, of no known format: {many} of the folders: {shown}")
    return cases_of_instances(found.instances), notes


def _refuse(names: tuple[str, ...], belongs_to: str) -> None:
    """Raise UsageError where one of these options was given."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} goes with {belongs_to}")


def _workload_case(words: dict[str, Any]) -> Case:
    from dse.cli.design import cost_design
    from dse.compared import case_of_table
    from dse.teams import split_teams

    package, chips = words["package"], words["chips"]
    if words["system"] is not None:
        if package or chips:
            raise click.UsageError("--system takes the place of --package and --chips")
        package, _, chips = words["system"].partition(":")
        if not (package and chips):
            raise InputError(
                f"--system {words['system']!r} names no {'chips' if package else 'package'}",
                "PACKAGE:CHIP,CHIP, such as interposer_2x2:big_core,small_core; see `dse systems` and `dse chips`",
            )
    if not (package and chips):
        raise click.UsageError("--workload needs --system PACKAGE:CHIPS, or --package and --chips")
    table = cost_design(
        workload=words["workload"], package=package, chips=chips, **{name: words[name] for name in COSTING}
    )
    sizes = words["teams"]
    modes = split_teams(words["workload"], table, sizes=sizes, replicate=words["replicate"]) if sizes else None
    return case_of_table(
        table,
        teams=modes,
        name=f"{words['workload']} on {package}:{chips}",
        objective=words["objective"] or "latency",
        contiguous=bool(words["contiguous"]),
        max_latency_ms=words["max_latency_ms"],
        max_energy_mj=words["max_energy_mj"],
        free_order=words["free_order"],
        micro_batches=words["micro_batches"],
    )


def _solvers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the solvers to run. Raises InputError where not one of those named exists."""
    from difflib import get_close_matches

    from solvers import mapping_solvers

    there = mapping_solvers()
    if names and not set(names) & set(there):
        near = get_close_matches(names[0], there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(there)}"
        raise InputError(f"no mapping solver is called {', '.join(map(repr, names))}", hint)
    return tuple(dict.fromkeys(names)) or tuple(there)


def _write(comparison: Comparison, cases: list[Case], out: Path) -> Path:
    from reports.compare_page import write_comparison

    return write_comparison(comparison, cases, out)
