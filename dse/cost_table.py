"""CostTable: what each segment costs on each slot of a system, and the mapping problem that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Precision
from chiplib.rules import BrokenRule, broken_network_rules, broken_rules, layer_shapes, network_measures
from dse.errors import DseError
from dse.proxy.model import DEFAULT, Bound, LayerCosts, LayerQuestion, check_datasheets, check_software, cost_model
from dse.proxy.software import UNSAID, Software
from dse.teams import TeamCosts, mode_routes
from dse.training_pipeline import training_terms
from dse.workload import require_counted
from solvers.mapping.problem import UNLIMITED, MappingProblem, Regime

if TYPE_CHECKING:
    from chiplib.system import System
    from workloads.segments import SegmentGraph

Objective = Literal["latency", "energy", "throughput"]
Reduction = Literal["sum", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a segment cannot run on a chip."""

    chip: str
    segment: int | None  # None: no segment can
    layer: str  # empty: no layer can
    reason: str

    def __str__(self) -> str:
        where = "" if self.segment is None else f" segment {self.segment}, layer {self.layer}:"
        return f"{self.chip}:{where} {self.reason}"


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentCosts:
    """What K segments cost on T chip types at one precision. Infinite where not allowed."""

    segments: SegmentGraph  # at that precision
    chips: tuple[ChipType, ...]  # [T], names differ
    precision: Precision
    model: str
    features: NDArray[np.void]  # [T] CHIP_FEATURES
    layers: LayerCosts  # [N, T]
    latency_ms: NDArray[np.float64]  # [K, T]
    energy_mj: NDArray[np.float64]  # [K, T] dynamic
    allowed: NDArray[np.bool_]  # [K, T]
    refusals: tuple[Refusal, ...]  # every reason for what is not allowed
    software: Software = UNSAID  # as asked for; which it is on each chip `layers.evidence` tells
    calibrations: Path | None = None  # folder of stored calibrations of chips
    low_ms: NDArray[np.float64] | None = None  # [K, T] interval of latency, of models that give one
    high_ms: NDArray[np.float64] | None = None  # [K, T]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """[K] what messages call the segments beside their numbers: their modules; empty where they have none."""
        return tuple(segment.name for segment in self.segments)

    @cached_property
    def column(self) -> dict[str, int]:
        """Chip name -> its column."""
        return {chip.name: index for index, chip in enumerate(self.chips)}

    @cached_property
    def with_empty(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Latency, energy and allowed [K, T + 1], the last column that of a slot without a chip."""
        never = np.full((len(self.latency_ms), 1), np.inf)
        return (
            np.hstack([self.latency_ms, never]),
            np.hstack([self.energy_mj, never]),
            np.hstack([self.allowed, np.zeros_like(never, np.bool_)]),
        )

    @cached_property
    def bound_ms(self) -> NDArray[np.float64]:
        """[Bound, K, T] summed time of the layers that each Bound limits."""
        starts = _first_layers(self.segments)
        parts = [np.where(self.layers.bound == code, self.layers.latency_ms, 0.0) for code in Bound]
        return np.stack([np.add.reduceat(part, starts, axis=0) for part in parts])

    @cached_property
    def bound(self) -> NDArray[np.int8]:
        """[K, T] the Bound that takes most of a segment's time."""
        largest: NDArray[np.int8] = np.argmax(self.bound_ms, axis=0).astype(np.int8)
        return largest

    @cached_property
    def input_bytes(self) -> NDArray[np.float64]:
        """[K] what a segment reads of others, all its edges together."""
        total = np.zeros(len(self.segments))
        np.add.at(total, self.segments.edges[:, 1], self.segments.edge_bytes)
        return total


@dataclass(frozen=True, kw_only=True, eq=False)
class CostTable:
    """What K segments cost on the S slots of a system. Empty slots are not allowed, and cost infinitely much."""

    costs: SegmentCosts
    system: System
    type_of_slot: NDArray[np.int64]  # [S] column of `costs`; T where the slot is empty
    latency_ms: NDArray[np.float64]  # [K, S]
    energy_mj: NDArray[np.float64]  # [K, S] dynamic
    allowed: NDArray[np.bool_]  # [K, S]

    @classmethod
    def of(cls, costs: SegmentCosts, system: System) -> CostTable:
        """Gather the columns of a system from costs that hold all of its chip types.

        Raises DseError where a chip of the system is not among them.
        """
        empty = len(costs.chips)
        columns = [empty if chip is None else costs.column.get(chip.name, -1) for chip in system.chips]
        if -1 in columns:
            chip = system.chips[columns.index(-1)]
            raise DseError(
                f"chip {chip.name if chip else ''!r} of the system has no costs",
                f"costs were computed for {', '.join(costs.column)}",
            )
        types = np.array(columns, np.int64)
        latency_ms, energy_mj, allowed = costs.with_empty
        return cls(
            costs=costs,
            system=system,
            type_of_slot=types,
            latency_ms=latency_ms[:, types],
            energy_mj=energy_mj[:, types],
            allowed=allowed[:, types],
        )

    def at(self, end: Literal["low", "high"]) -> CostTable:
        """Return the table with every latency at that end of its interval.

        Raises DseError where the model gives no intervals.
        """
        ends = self.costs.low_ms if end == "low" else self.costs.high_ms
        if ends is None:
            raise DseError(f"cost model {self.costs.model!r} gives no intervals", f"model: {DEFAULT}")
        never = np.full((len(ends), 1), np.inf)
        return replace(self, latency_ms=np.hstack([ends, never])[:, self.type_of_slot])

    def crowded(self, assignment: NDArray[np.int64]) -> tuple[str, ...]:
        """Say which slots break a network rule of their chip with all the segments that `assignment` [K] gives them.

        The mapping problem does not hold these rules; a segment that breaks one by itself is not allowed there.
        """
        said = []
        for slot, chip in enumerate(self.system.chips):
            if chip is None or not chip.network_rules:
                continue
            layers = np.flatnonzero(assignment[self.segments.segment_of_layer] == slot)
            said += [f"slot {slot} ({chip.name}): {_reason(broken)}" for broken in _broken(self.segments, chip, layers)]
        return tuple(said)

    def why_not(self, segment: int, slot: int) -> str:
        """Say why a segment is not allowed on a slot."""
        chip = self.system.chips[slot]
        if chip is None:
            return "the slot is empty"
        reasons = [str(r) for r in self.costs.refusals if r.chip == chip.name and r.segment in (None, segment)]
        return "; ".join(reasons)

    @property
    def segments(self) -> SegmentGraph:
        """The segments, at the precision of the costs."""
        return self.costs.segments

    def mapping_problem(
        self,
        objective: Objective = "latency",
        *,
        regime: Regime | None = None,
        weights: tuple[float, float] | None = None,
        contiguous: bool = False,
        free_order: bool = False,
        max_latency_ms: float = np.inf,
        max_energy_mj: float = np.inf,
        teams: TeamCosts | None = None,
        micro_batches: int | None = None,
    ) -> MappingProblem:
        """State the mapping of these segments on this system as arrays.

        `latency` is the time of one input (serial), `throughput` the load of the busiest resource (pipelined),
        `energy` that of one input in `regime` (serial unless given). `weights` (of time, of energy) take the place of
        the objective's own. `free_order` leaves the order of segments on a slot to the solver (serial). `teams` adds
        the modes in which several slots run a segment (see dse.teams.team_costs).

        Of a training step in the pipelined regime, forward and backward segments of the same weights stay together,
        and each stage keeps the activations of the inputs that it has in flight: of `micro_batches` at most.

        Raises DseError where the objective is unknown or does not go with the regime.
        """
        if objective not in ("latency", "energy", "throughput"):
            raise DseError(f"no mapping objective is called {objective!r}", "one of latency, energy, throughput")
        own: Regime = "pipelined" if objective == "throughput" else "serial"
        if regime is not None and objective != "energy" and weights is None and regime != own:
            raise DseError(f"objective {objective!r} is of the {own} regime, not {regime!r}", f"regime: {own}")
        resolved = regime or own
        if micro_batches is not None and micro_batches < 1:
            raise DseError(f"micro_batches is {micro_batches}", "at least 1")
        latency_weight, energy_weight = weights or ((0.0, 1.0) if objective == "energy" else (1.0, 0.0))
        segments, system = self.segments, self.system
        held = resident_bytes(segments, resolved)
        terms: dict[str, Any] = {}
        if segments.graph.mode == "train" and resolved == "pipelined":
            training = training_terms(segments)
            held = held - 2.0 * training.stash_bytes
            terms |= {
                "group": training.group,
                "backward": training.backward,
                "stash_bytes": training.stash_bytes,
                "most_in_flight": micro_batches or UNLIMITED,
            }
        compute_ms, energy_mj, allowed = self.latency_ms, self.energy_mj, self.allowed
        routes: dict[str, Any] = {
            "route_latency_ms": system.routes.latency_ms,
            "route_ms_per_byte": system.routes.ms_per_byte,
            "route_mj_per_byte": system.routes.mj_per_byte,
            "route_links": system.routes.uses_link,
        }
        if teams is not None and teams.teams:
            alone = np.repeat(held[:, None], compute_ms.shape[1], axis=1)
            compute_ms, energy_mj = (
                np.hstack(pair) for pair in ((compute_ms, teams.compute_ms), (energy_mj, teams.energy_mj))
            )
            in_turn = np.array([team.way == "replicate" for team in teams.teams])  # shortens no single input's time
            allowed = np.hstack([allowed, teams.allowed & ((resolved == "pipelined") | ~in_turn)])
            routes = mode_routes(system.routes, np.vstack([np.eye(system.slots, dtype=np.bool_), teams.members]))
            held = np.hstack([alone, teams.resident_bytes])
            terms["teams"] = teams.members
        return MappingProblem(
            compute_ms=compute_ms,
            energy_mj=energy_mj,
            edges=segments.edges,
            edge_bytes=segments.edge_bytes,
            resident_bytes=held,
            workspace_bytes=segments.workspace_bytes,
            capacity_bytes=system.capacity_bytes,
            allowed=allowed,
            static_w=system.static_w,
            regime=resolved,
            latency_weight=latency_weight,
            energy_weight=energy_weight,
            max_latency_ms=max_latency_ms,
            max_energy_mj=max_energy_mj,
            contiguous=contiguous,
            free_order=free_order,
            names=self.costs.names,
            **routes,
            **terms,
        )


def segment_costs(
    segments: SegmentGraph,
    chips: Sequence[ChipType],
    *,
    model: str = DEFAULT,
    precision: Precision | str = Precision.FP16,
    reduce: Reduction = "sum",
    framework: str | None = None,
    timer: str | None = None,
    calibrations: str | Path | None = None,
) -> SegmentCosts:
    """Cost every segment on every chip type, at one precision, in one call of the layer cost model.

    The batch is that of the segments (see SegmentGraph.over); their bytes are scaled here. A segment's latency is the
    sum of its layers' (`reduce="max"`: the largest, layers of a segment running side by side); its energy always the
    sum. The ends of its interval come of theirs in the same way, as if all predictions were off to the same side: those
    for one chip mostly are, and where they are not the interval is wider than it need be. A segment is not allowed on a
    chip that lacks the precision or one of its operators, or one of whose rules a layer breaks. Duplicate chip types
    count once.

    `framework` and `timer` are what a model that knows software speaks for, as its data name them (see
    dse.proxy.software for what holds where nothing is said); `calibrations` a folder of calibrations that
    `dse proxy calibrate` stored, such as that of the chip library.

    Raises DseError for an unknown model, precision, reduction, framework or timer, where two different chips share a
    name, where a datasheet lacks what the model reads, or where the graph holds operators that are not counted.
    """
    require_counted(segments.graph)
    precision = as_precision(precision)
    if reduce not in ("sum", "max"):
        raise DseError(f"no reduction is called {reduce!r}", "sum or max")
    unique: dict[str, ChipType] = {}
    for chip in chips:
        if unique.setdefault(chip.name, chip) != chip:
            raise DseError(f"two different chips are called {chip.name!r}", "give each chip type its own name")
    types = tuple(unique.values())
    scaled = segments.at(precision.bytes)
    predictor = cost_model(model)
    check_datasheets(predictor, types)
    software = check_software(predictor, Software(framework=framework or "", timer=timer or ""))
    folder = None if calibrations is None else Path(calibrations)
    question = LayerQuestion.of(scaled, types, precision, software=software, calibrations=folder)
    layers = predictor.predict(question)
    starts = _first_layers(scaled)
    allowed, refusals = _deployable(scaled, types, precision)

    def of_segments(values: NDArray[np.float64], together: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
        reduced = together(values, starts, axis=0)
        reduced[~allowed] = np.inf
        return reduced

    in_time = (np.add if reduce == "sum" else np.maximum).reduceat
    return SegmentCosts(
        segments=scaled,
        chips=types,
        precision=precision,
        model=model,
        features=question.chips,
        layers=layers,
        latency_ms=of_segments(layers.latency_ms, in_time),
        energy_mj=of_segments(layers.energy_mj, np.add.reduceat),
        allowed=allowed,
        refusals=refusals,
        software=software,
        calibrations=folder,
        low_ms=None if layers.low_ms is None else of_segments(layers.low_ms, in_time),
        high_ms=None if layers.high_ms is None else of_segments(layers.high_ms, in_time),
    )


def cost_table(
    segments: SegmentGraph,
    system: System,
    *,
    model: str = DEFAULT,
    precision: Precision | str = Precision.FP16,
    framework: str | None = None,
    timer: str | None = None,
    calibrations: str | Path | None = None,
) -> CostTable:
    """Cost every segment on every slot of one system; see `segment_costs` for what is computed and raised.

    For many systems compute `segment_costs` once for all chip types, then `CostTable.of(costs, system)` each.
    """
    costs = segment_costs(
        segments,
        system.present,
        model=model,
        precision=precision,
        framework=framework,
        timer=timer,
        calibrations=calibrations,
    )
    return CostTable.of(costs, system)


def resident_bytes(segments: SegmentGraph, regime: Regime) -> NDArray[np.float64]:
    """Return what each segment [K] keeps in its slot's memory: its weights and its boundary outputs.

    Outputs count twice in a pipeline: one buffer is written while the other is read.
    """
    buffers = 2.0 if regime == "pipelined" else 1.0
    resident: NDArray[np.float64] = segments.weight_bytes + buffers * segments.output_bytes
    return resident


def as_precision(value: Precision | str) -> Precision:
    """Return the precision of that name. Raises DseError where there is none."""
    try:
        return Precision(value)
    except ValueError:
        raise DseError(f"no precision is called {value!r}", f"one of {', '.join(Precision)}") from None


def _first_layers(segments: SegmentGraph) -> NDArray[np.int64]:
    """Index of each segment's first layer; the layers of a segment are consecutive."""
    return np.searchsorted(segments.segment_of_layer, np.arange(len(segments)))


def _deployable(
    segments: SegmentGraph, chips: Sequence[ChipType], precision: Precision
) -> tuple[NDArray[np.bool_], tuple[Refusal, ...]]:
    """Which segments each chip can run, [K, T], and every reason for what it cannot."""
    layers = segments.graph.layers
    kinds, shapes = [layer.kind.value for layer in layers], layer_shapes([layer.shape for layer in layers])
    operations = [layer.operation for layer in layers]
    allowed = np.ones((len(segments), len(chips)), np.bool_)
    refusals: list[Refusal] = []
    for column, chip in enumerate(chips):
        if not chip.supports(precision):
            allowed[:, column] = False
            reason = f"no {precision} peak on its datasheet, which gives {', '.join(chip.peak_flops)}"
            refusals.append(Refusal(chip=chip.name, segment=None, layer="", reason=reason))
        broken_here = broken_rules(chip, kinds, shapes, operations)
        for members in segments if chip.network_rules else ():
            broken_here += _broken(segments, chip, np.array(members.layer_indices))
        for broken in broken_here:
            segment = int(segments.segment_of_layer[broken.layer])
            allowed[segment, column] = False
            name = layers[broken.layer].name
            refusals.append(Refusal(chip=chip.name, segment=segment, layer=name, reason=_reason(broken)))
    return allowed, tuple(refusals)


def _broken(segments: SegmentGraph, chip: ChipType, layers: NDArray[np.int64]) -> list[BrokenRule]:
    """Network rules of `chip` that these layers [n] of the graph break together, at the segments' precision."""
    rows = segments.features[layers]
    measures = network_measures(
        chip,
        weight_bytes=rows["weight_bytes"] - rows["bias_bytes"],
        bias_bytes=rows["bias_bytes"],
        pixels=rows["in_rows"] * rows["in_cols"],
    )
    kinds = [segments.graph.layers[layer].kind.value for layer in layers]
    found = broken_network_rules(chip, kinds, measures)
    return [replace(broken, layer=int(layers[broken.layer])) for broken in found]


def _reason(broken: BrokenRule) -> str:
    whose = "its layers have together" if broken.rule.startswith("network") else "the layer has"
    return f"{broken.rule}; {whose} {broken.demand}, the chip allows {broken.limit}"
