"""One design from the command line: a workload on named chips in a package, mapped. Shared by `map` and `simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dse.cli.app import InputError
from dse.cli.workload_options import MODE_OPTIONS, run_mode_of

if TYPE_CHECKING:
    from dse.cost_table import CostTable, Objective
    from dse.fine_split import FineSplitMapping
    from dse.teams import TeamCosts
    from solvers.mapping.problem import Mapping, MappingProblem, Regime

Command = TypeVar("Command", bound=Callable[..., Any])

COST_OPTIONS = (
    click.option("--library", default="chiplets", show_default=True, help="Name or YAML file of a chip library."),
    click.option("--precision", default="fp16", show_default=True, help="fp32, tf32, fp16, fp8 or int8."),
    click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Samples an input."),
    click.option("--model", default="learned", show_default=True, help="Layer cost model."),
    click.option("--framework", help="Software that model learned speaks for.  [default: torch, PyTorch as it is]"),
    click.option("--timer", help="How that software was timed.  [default: as the framework was]"),
    click.option("--segments", "count", type=click.IntRange(min=1), help="Cut the layers into so many segments."),
    click.option("--segment-size", type=click.IntRange(min=1), help="Layers a segment.  [default: 4]"),
    click.option("--depth", type=click.IntRange(min=1), help="One segment a module at this depth of the model."),
    *MODE_OPTIONS,
)
"""What says how the segments of a workload on given chips are cut and costed."""

PROBLEM_OPTIONS = (
    click.option(
        "--micro-batches",
        type=click.IntRange(min=1),
        help="Of a training step, with --objective throughput: inputs in flight at most.",
    ),
    click.option("--free-order", is_flag=True, help="The solver also chooses the order of segments on a chip."),
)
"""What says which freedom a mapping of them has."""

OPTIONS = (
    click.argument("workload"),
    click.option("--package", required=True, help="A package of the library: see `dse systems`."),
    click.option("--chips", required=True, help="Chips in slot order, joined by commas: big_core,big_core,small_core."),
    click.option("--solver", default="local_search", show_default=True, help="Mapping solver."),
    click.option(
        "--objective",
        type=click.Choice(["latency", "energy", "throughput"]),
        default="latency",
        show_default=True,
        help="What to make best; throughput is that of a stream of inputs.",
    ),
    *COST_OPTIONS,
    *PROBLEM_OPTIONS,
    click.option(
        "--deadline", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="Seconds."
    ),
    click.option("--contiguous", is_flag=True, help="Each chip gets one run of consecutive segments."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the solver."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
)


def _sizes(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return whole numbers that commas join."""
    try:
        return tuple(int(size) for size in text.split(",")) if text is not None else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of sizes, such as 2,4") from None


def team_options(command: Command) -> Command:
    """Give a command the options of teams of slots."""
    sizes = click.option(
        "--teams", callback=_sizes, metavar="G,G", help="Also split segments over so many slots: 2 or 2,4."
    )
    replicate = click.option(
        "--replicate", is_flag=True, help="With --teams: also let slots take inputs in turn (objective throughput)."
    )
    return sizes(replicate(command))


def design_options(command: Command) -> Command:
    """Give a command the argument WORKLOAD and the options that say which design, and how to map it."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class MappedDesign:
    """A workload mapped on a system, and the words that it was asked for with."""

    workload: str
    package: str
    chips: tuple[str, ...]
    precision: str
    batch: int
    contiguous: bool
    goal: Objective  # what was made best
    table: CostTable
    mapping: Mapping
    regime: Regime
    interval: tuple[float, float] | None  # of the mapping's latency_ms, where the model gives one
    problem: MappingProblem
    teams: TeamCosts | None = None  # what the modes behind the slots are
    fine: FineSplitMapping | None = None  # of --fine-split

    @property
    def title(self) -> str:
        """Return the design in a few words."""
        from dse.space import describe

        return f"{self.workload} on " + describe(
            {
                "chips": list(self.chips),
                "package": self.package,
                "precision": self.precision,
                "batch": self.batch,
                "mapper": self.mapping.solver,
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the answer of --json: the design, the mapping with its proof, and what each segment costs."""
        mapping = self.mapping
        return {
            "workload": self.workload,
            "package": self.package,
            "chips": self.chips,
            "precision": self.precision,
            "batch": self.batch,
            "contiguous": self.contiguous,
            "regime": self.regime,
            "goal": self.goal,
            "solver": mapping.solver,
            "objective": mapping.objective,
            "lower_bound": mapping.lower_bound,
            "gap": mapping.gap,
            "status": mapping.status,
            "wall_s": mapping.wall_s,
            "latency_ms": mapping.latency_ms,
            "latency_interval_ms": self.interval,
            "energy_mj": mapping.energy_mj,
            "prediction": self.prediction(),
            "assignment": mapping.assignment,
            "order": mapping.order if len(mapping.order) else None,
            "segments": self.segment_dicts(),
        } | ({"fine_split": self.fine.as_dict()} if self.fine else {})

    def prediction(self) -> dict[str, Any]:
        """Return what gave the latencies, and what of the design lies outside of the model's data."""
        import numpy as np

        from dse.prediction import basis, outside

        first = np.argmax(self.problem.members, axis=1)  # of replicas and members one speaks for all
        return basis(self.table.costs, self.chips) | {"outside": outside(self.table, first[self.mapping.assignment])}

    def segment_dicts(self) -> list[dict[str, Any]]:
        """Return an object of SEGMENT_KEYS for each segment."""
        return [dict(zip(SEGMENT_KEYS, row, strict=True)) for row in self.segment_rows()]

    def segment_rows(self) -> list[tuple[object, ...]]:
        """Return a row of SEGMENT_KEYS for each segment."""
        from dse.prediction import ends_of

        table, problem = self.table, self.problem
        rows: list[tuple[object, ...]] = []
        for segment, mode in zip(table.segments, self.mapping.assignment.tolist(), strict=True):
            slots = problem.members[mode].nonzero()[0].tolist()
            alone = len(slots) == 1
            way, team_bytes, share = self._shared(segment.id, mode)
            rows.append(
                (
                    segment.id,
                    segment.name,
                    len(segment.layer_indices),
                    slots[0],
                    "+".join(dict.fromkeys(self.chips[slot] for slot in slots)),
                    float(problem.compute_ms[segment.id, mode]),
                    *(ends_of(table, segment.id, slots[0]).values() if alone else self._ends_of_team(segment.id, mode)),
                    float(problem.energy_mj[segment.id, mode]),
                    slots,
                    way,
                    team_bytes,
                    share,
                )
            )
        return rows

    def _shared(self, segment: int, mode: int) -> tuple[str, float, float]:
        """How a segment is shared in a mode, the bytes that its team sends within itself, a member's share at most."""
        if self.teams is None or mode < self.problem.slots:
            return "whole", 0.0, 1.0
        number = mode - self.problem.slots
        if self.teams.teams[number].way == "replicate":
            return "replicate", 0.0, 1.0
        split = self.teams.splits[segment, number]
        sent = self.teams.sent_within(segment, number, self.table.segments.float_bytes)
        return split.way, float(sent.sum()), split.largest_share

    def _ends_of_team(self, segment: int, mode: int) -> tuple[float | None, float | None]:
        """The interval of a segment's time on a team; None where the model gives none."""
        if self.teams is None or self.teams.low_ms is None:
            return None, None
        number = mode - self.problem.slots
        low, high = (float(self.teams.at(end).compute_ms[segment, number]) for end in ("low", "high"))
        return low, high

    def proof(self) -> str:
        """Return how good the mapping is, in a sentence."""
        mapping = self.mapping
        gap = "proven optimal" if mapping.status == "optimal" else f"gap {100 * mapping.gap:.3g} %"
        unit = "mJ" if self.goal == "energy" else "ms"
        return (
            f"{mapping.solver}: {self.goal} objective {mapping.objective:.6g} {unit}, lower bound "
            f"{mapping.lower_bound:.6g} {unit}, {gap}, {mapping.wall_s:.2f} s."
        )


SHOWN = 3  # reasons of a refusal; the others are counted
SEGMENT_KEYS = (
    *("id", "name", "layers", "slot", "chip", "latency_ms", "latency_low_ms", "latency_high_ms", "energy_mj"),
    *("slots", "way", "team_bytes", "largest_share"),
)


def cost_design(
    *,
    workload: str,
    package: str,
    chips: str,
    library: str,
    precision: str,
    batch: int,
    model: str,
    framework: str | None,
    timer: str | None,
    count: int | None,
    segment_size: int | None,
    depth: int | None,
    mode: str = "inference",
    optimizer: str | None = None,
    recompute: str | None = None,
) -> CostTable:
    """Trace and cost. Raises the error of the package that meets a wrong word, InputError for chips without a name."""
    import chiplib
    import workloads
    from dse.cost_table import cost_table
    from dse.workload import workload_graph

    ways = {"count": count, "segment_size": segment_size, "depth": depth}
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) > 1:
        raise click.UsageError("--segments, --segment-size and --depth exclude each other")
    run_mode = run_mode_of(mode, optimizer, recompute)
    names = chip_names(chips)
    shelf = chiplib.load_library(library)
    system = chiplib.System.build(package=package, chips=list(names), library=shelf)
    graph = workload_graph(workload, mode=run_mode, batch=batch)
    segments = workloads.build_segments(graph, **(given or {"segment_size": 4}))
    return cost_table(
        segments,
        system,
        model=model,
        precision=precision,
        framework=framework,
        timer=timer,
        calibrations=shelf.folder,
    )


def chip_names(chips: str) -> tuple[str, ...]:
    """Return the names of --chips. Raises InputError where one is empty."""
    names = tuple(name.strip() for name in chips.split(","))
    if "" in names:
        place = names.index("") + 1
        raise InputError(
            f"--chips {chips!r} names no chip in place {place}",
            "names joined by single commas, such as big_core,small_core; slots left over stay empty",
        )
    return names


def map_design(
    *,
    workload: str,
    package: str,
    chips: str,
    solver: str,
    objective: Objective,
    precision: str,
    batch: int,
    deadline: float,
    contiguous: bool,
    seed: int,
    regime: Regime | None = None,
    teams: Sequence[int] = (),
    replicate: bool = False,
    free_order: bool = False,
    micro_batches: int | None = None,
    fine: dict[str, Any] | None = None,
    **costing: Any,
) -> MappedDesign:
    """Cost and map. Raises what `cost_design` raises, InputError where nothing fits.

    `teams` are the sizes of teams that segments may be split over, and with `replicate` those that take inputs in turn;
    `free_order` and `micro_batches` are those of `CostTable.mapping_problem`;
    `fine` the settings of `dse.fine_split.split_fine`, which splits the segments of a mapping afterwards.
    """
    import solvers
    from dse.fine_split import split_fine
    from dse.prediction import mapping_interval
    from dse.teams import crowded, split_teams

    table = cost_design(workload=workload, package=package, chips=chips, precision=precision, batch=batch, **costing)
    modes = split_teams(workload, table, sizes=teams, replicate=replicate) if teams else None
    terms: dict[str, Any] = {
        "regime": regime,
        "contiguous": contiguous,
        "free_order": free_order,
        "micro_batches": micro_batches,
    }
    problem = table.mapping_problem(objective, teams=modes, **terms)
    mapping = solvers.solve_mapping(problem, solver=solver, deadline_s=deadline, seed=seed)
    split = None
    if fine is not None and len(mapping.assignment):
        split = split_fine(workload, table, mapping, objective=objective, seed=seed, **terms, **fine)
        modes, problem, mapping = split.teams, split.problem, split.mapping
    design = MappedDesign(
        workload=workload,
        package=package,
        chips=chip_names(chips),
        precision=precision,
        batch=batch,
        contiguous=contiguous,
        goal=objective,
        table=table,
        mapping=mapping,
        regime=problem.regime,
        interval=mapping_interval(table, problem, mapping, modes) if len(mapping.assignment) else None,
        problem=problem,
        teams=modes,
        fine=split,
    )
    if not len(mapping.assignment):
        _refuse(design)
    if reasons := crowded(table, problem.members[mapping.assignment]):
        raise InputError(
            f"{design.title}: the mapping that was found breaks a rule of a chip: {reasons[0]}", "more chips"
        )
    return design


def _refuse(design: MappedDesign) -> NoReturn:
    """Raise InputError: which constraint, by how much, and what would satisfy it."""
    reasons = design.mapping.infeasibility
    if not reasons:
        raise InputError(
            f"{design.title}: {design.mapping.solver} found no mapping until its deadline",
            "a longer --deadline, another --solver, or fewer segments",
        )
    nowhere = [reason for reason in reasons if reason.constraint == "deployability"]
    if nowhere:
        shown = ", ".join(reason.subject for reason in nowhere[:SHOWN]) + (", ..." if len(nowhere) > SHOWN else "")
        message = f"no chip can run {len(nowhere)} of {len(design.table.segments)} segments: {shown}"
        hints = [str(refusal) for refusal in design.table.costs.refusals[:SHOWN]]
    else:
        message = "; ".join(
            f"{r.constraint} of {r.subject}: needs {_amount(r.demand, r.unit)}, has {_amount(r.bound, r.unit)}, "
            f"{_amount(r.gap, r.unit)} too little"
            for r in reasons[:SHOWN]
        )
        if len(reasons) > SHOWN:
            message += f"; and {len(reasons) - SHOWN} more"
        hints = list(dict.fromkeys(lever for reason in reasons[:SHOWN] for lever in reason.levers))
    raise InputError(f"{design.title} cannot be mapped: {message}", "; ".join(hints))


def _amount(value: float, unit: str) -> str:
    return f"{value / 1e6:,.4g} MB" if unit == "bytes" else f"{value:,.4g} {unit}".rstrip()
