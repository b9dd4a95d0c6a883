"""The typed records of a run folder: what docs/run_folder.md defines, as far as the page shows it.

Almost every field has a default, so that a folder that was written by an older or a newer version, or by a run that was
cut short, can still be shown: what is missing is said, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PointId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """What makes a design."""

    chips: list[str] = field(default_factory=list)
    package: str = ""
    precision: str = ""
    batch: int = 1
    mapper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One point of the front; `metrics` by name, units in the names, and the intervals of those that have one."""

    design: str
    metrics: dict[str, float]
    point: PointId = 0
    params: Params = field(default_factory=Params)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """What a prediction speaks for: a framework, and how it was timed."""

    framework: str = ""
    timer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideChip:
    """How much of the workload's time on a chip lies outside of what the cost model was fitted to."""

    chip: str
    precision: str = ""
    batch: int = 1
    share: float = 0.0
    reasons: dict[str, float] = field(default_factory=dict)  # label -> share


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideCase:
    """Layers of one kind on one chip that lie outside of what the cost model was fitted to, and why."""

    chip: str
    kind: str = ""
    reasons: list[str] = field(default_factory=list)
    layers: int = 0
    share: float = 0.0  # of all layers' time


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What of one design lies outside."""

    share: float = 0.0
    cases: list[OutsideCase] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The model that gave the latencies; of one that was fitted, to what, and what it speaks for."""

    model: str = ""
    software: dict[str, Software] = field(default_factory=dict)  # by chip
    data: dict[str, int] = field(default_factory=dict)  # source of measured rows -> rows
    coverage: float | None = None  # of intervals
    fingerprint: str | None = None
    calibrated: list[str] = field(default_factory=list)  # chips


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPrediction(Basis):
    """The same of a study, and what of the workload lies outside of the data on each chip."""

    outside: list[OutsideChip] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignPrediction(Basis):
    """The same of one design, with its intervals by metric and what of it lies outside of the data."""

    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    outside: Outside = field(default_factory=Outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRef:
    """Names one point of one design."""

    design: str
    point: PointId = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """The state of the search after `evaluated` designs."""

    evaluated: int
    wall_s: float | None = None
    hypervolume: float | None = None
    epsilon: float | None = None
    open_unmapped: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRow:
    """A line of a results file that the study could not read."""

    file: str
    line: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`summary.json`."""

    objectives: list[str]
    front: list[FrontPoint]
    study: str = ""
    workload: str = ""
    regime: str = ""
    model: str = ""
    prediction: StudyPrediction = field(default_factory=StudyPrediction)
    designs: int | None = None
    infeasible: int | None = None
    evaluated: int | None = None
    failed: int | None = None
    ruled_out: int | None = None
    open_unmapped: int | None = None
    epsilon: float | None = None
    epsilon_basis: str = ""
    hypervolume: float | None = None
    reference_point: list[float] | None = None
    knee: PointRef | None = None
    history: list[HistoryEntry] = field(default_factory=list)
    infeasible_reasons: dict[str, int] = field(default_factory=dict)
    damaged_rows: list[DamagedRow] = field(default_factory=list)
    wall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPoint:
    """One mapped and simulated point of a result row."""

    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One line of `results/*.jsonl`, as far as the page shows it."""

    design: str
    status: str
    params: Params = field(default_factory=Params)
    reason: str = ""
    points: list[ResultPoint] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`environment.json`."""

    versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    commit: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    started: str | None = None
    command: str | list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLayer:
    """One layer of `workload.json`, at the traced precision and batch."""

    name: str = ""
    operator: str = ""
    kind: str = "other"
    module: str = ""
    counting: str = ""
    formula: str = ""
    macs: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    phase: str = "forward"
    size: str = ""  # kernel and stride, or m x k x n, ...
    output_shape: list[int] = field(default_factory=list)
    parameters: float = 0.0
    arithmetic_intensity: float = 0.0  # op/B
    live_bytes: float = 0.0  # tensors that are live while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSegment:
    """One segment of `workload.json`."""

    id: int
    layer_indices: list[int] = field(default_factory=list)
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UncountedOperator:
    """An operator that was not understood, and its calls."""

    name: str
    count: int = 0
    sources: list[str] = field(default_factory=list)  # file, line and code that called it
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over the layers of one module or operator."""

    name: str
    layers: int = 0
    parameters: float = 0.0
    macs: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums by module and by operator."""

    by_module: list[Total] = field(default_factory=list)
    by_operator: list[Total] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakMemory:
    """Weights, and the largest sum of live tensors; `layer` is where that is."""

    weight_bytes: float
    activation_bytes: float
    gradient_bytes: float = 0.0  # of a training step, as the next
    optimizer_bytes: float = 0.0
    layer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One bottleneck of the workload and what to build against it."""

    subject: str
    bound: str = ""
    where: list[str] = field(default_factory=list)
    evidence: str = ""
    measure: str = ""
    gain: str = ""
    severity: float = 0.0  # share of `share_of`
    share_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Figures of a part: of a specification, or as built."""

    parameters: float | None = None
    flops: float | None = None
    flops_by_rule: float | None = None  # by the specification's own way of counting
    output_shape: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecificationPart:
    """One row of a specification's table; a part that is not built has no figures."""

    part: str
    claim: str = ""
    claimed: Claim = field(default_factory=Claim)
    built: Claim | None = None
    differs: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecificationGroup:
    """Sums over the rows of one group."""

    claimed: Claim = field(default_factory=Claim)
    built: Claim = field(default_factory=Claim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What a specification claims part by part, beside what is built."""

    source: str = ""
    convention: str = ""
    rows: list[SpecificationPart] = field(default_factory=list)
    groups: dict[str, SpecificationGroup] = field(default_factory=dict)
    sums: Claim = field(default_factory=Claim)
    total: Claim = field(default_factory=Claim)
    built_total: Claim = field(default_factory=Claim)
    findings: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPoint:
    """One model at one length of its input."""

    name: str
    seconds: float
    flops: float
    peak_bytes: float
    peak_bytes_with_scores: float | None = None  # where softmax attention holds its scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published figure of the workload beside the traced one."""

    quantity: str
    value: float
    traced: float | None = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`workload.json`, and what `dse workloads NAME --json` prints."""

    name: str = ""
    mode: str = "inference"
    training: str = ""  # optimiser of a training step, and how many modules compute their activations again
    parameters: float | None = None
    macs: float | None = None
    flops: float | None = None
    bytes: float | None = None
    batch: int | None = None
    seconds: float | None = None
    streaming: dict[str, float] | None = None  # algorithmic latency and its parts, of a model that runs on a stream
    input_shapes: list[list[int]] = field(default_factory=list)
    peak_memory: PeakMemory | None = None
    totals: Totals = field(default_factory=Totals)
    advice: list[Advice] = field(default_factory=list)
    specification: Specification | None = None
    growth: list[GrowthPoint] = field(default_factory=list)
    layers: list[WorkloadLayer] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)  # views, by operator
    uncounted_operators: list[UncountedOperator] = field(default_factory=list)
    reference: list[Reference] = field(default_factory=list)
    segments: list[WorkloadSegment] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a figure of the run rests on, in a sentence."""

    subject: str
    statement: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """`library.json`: datasheets as plain mappings, because all of their fields are shown."""

    chips: list[dict[str, Any]] = field(default_factory=list)
    packages: list[dict[str, Any]] = field(default_factory=list)
    links: list[dict[str, Any]] = field(default_factory=list)
    basis: list[Statement] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailLink:
    """The link type of a package."""

    name: str = ""
    bandwidth_gb_s: float | None = None
    latency_ns: float | None = None
    pj_per_bit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailPackage:
    """The package of one point."""

    name: str
    width_mm: float
    height_mm: float
    kind: str = ""
    shape: str = "rectangle"
    topology: str = ""
    link: DetailLink = field(default_factory=DetailLink)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailChip:
    """One placed chip; x and y are of its lower left corner, widths are after rotation."""

    slot: int
    name: str
    x_mm: float
    y_mm: float
    width_mm: float
    height_mm: float
    rotated: bool = False
    busy_ms: float = 0.0
    utilisation: float = 0.0
    peak_memory_mb: float = 0.0
    memory_mb: float = 0.0
    power_w: float | None = None
    weights_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailTraffic:
    """One directed link with traffic on it."""

    source: int
    target: int
    bytes: float
    busy_ms: float = 0.0
    utilisation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailSegment:
    """One segment on its chip."""

    id: int
    slot: int
    latency_ms: float
    latency_low_ms: float | None = None
    latency_high_ms: float | None = None
    name: str = ""
    energy_mj: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    bound: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailLayer:
    """One layer on its chip, at the design's precision and batch; `index` is into the workload's layers."""

    index: int
    slot: int
    latency_ms: float
    flops: float = 0.0
    bytes: float = 0.0
    bound: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The ceilings of one chip type at the design's precision: op/s, B/s, and the fractions that kernels reach."""

    peak_flops: float
    peak_bw: float
    vector_flops: float = 0.0
    achievable: float = 1.0
    achievable_bw: float = 1.0

    @property
    def compute(self) -> float:
        """Reachable op/s of the matrix units."""
        return self.peak_flops * self.achievable

    @property
    def bandwidth(self) -> float:
        """Reachable B/s."""
        return self.peak_bw * self.achievable_bw

    @property
    def ridge(self) -> float:
        """Arithmetic intensity, op/B, above which compute binds."""
        return self.compute / self.bandwidth if self.bandwidth else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingResult:
    """How the mapping was found."""

    solver: str = ""
    objective: float | None = None
    lower_bound: float | None = None
    gap: float | None = None
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """Latency with and without link contention."""

    with_ms: float
    without_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementResult:
    """How the placement was found."""

    wirelength_byte_mm: float | None = None
    lower_bound: float | None = None
    solver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """`timelines/DESIGN-POINT.json`: one point in detail. Spans are tuples in the order of the file format."""

    design: str
    point: PointId = 0
    params: Params = field(default_factory=Params)
    metrics: dict[str, float] = field(default_factory=dict)
    prediction: DesignPrediction = field(default_factory=DesignPrediction)
    package: DetailPackage | None = None
    chips: list[DetailChip] = field(default_factory=list)
    links: list[DetailTraffic] = field(default_factory=list)
    segments: list[DetailSegment] = field(default_factory=list)
    layers: list[DetailLayer] = field(default_factory=list)
    rooflines: dict[str, Roofline] = field(default_factory=dict)
    compute: list[tuple[int, int, int, float, float]] = field(default_factory=list)
    transfers: list[tuple[int, int, int, int, int, float, float, float]] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    mapping: MappingResult | None = None
    contention: Contention | None = None
    placement: PlacementResult | None = None

    def chip_name(self, slot: int) -> str:
        """Name of the chip in `slot`, or "?" where the file does not list it."""
        return next((chip.name for chip in self.chips if chip.slot == slot), "?")
