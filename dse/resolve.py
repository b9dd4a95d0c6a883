"""Resolve: a study's words become arrays - the traced workload, costs of every chip type, all designs, their bounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import solvers
import workloads
from chiplib import ChipError, ChipLibrary, System, basis
from chiplib.chip import ChipType, Precision
from chiplib.features import chip_features
from chiplib.package import Package, routes
from dse.cost_table import SegmentCosts, resident_bytes, segment_costs
from dse.errors import DseError
from dse.evaluate import Evaluator
from dse.objectives import ENERGY, TIME, Objectives
from dse.prediction import basis as basis_of_latency
from dse.prediction import chips_by_software, outside_by_chip
from dse.proxy.model import check_software, cost_model
from dse.proxy.software import Software
from dse.search.bounds import HalfPlanes, TypeCosts, half_planes
from dse.search.certified import DesignBounds
from dse.space import Designs, enumerate_designs
from dse.study_file import StudyFile
from dse.workload import describe_workload, sized
from solvers.mapping.solver import mapping_solver
from workloads import SegmentGraph

PRECISION_BASIS = (
    "A precision sets peak, bytes and energy of every floating-point layer alike; what it does to the accuracy of the "
    "model is not predicted."
)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a study means: D designs with their bounds, and the evaluator that maps any of them."""

    designs: Designs
    bounds: DesignBounds
    possible: NDArray[np.bool_]  # [D]
    reason: NDArray[np.object_]  # [D] why not possible
    evaluator: Evaluator
    workload: dict[str, Any]  # workload.json
    datasheets: dict[str, Any]  # library.json
    fingerprints: dict[str, str]  # of what the results depend on beside the study; not of prose, nor of the code
    software: Software  # as the cost model takes it
    prediction: dict[str, Any]  # what gave the latencies: dse.prediction.basis and outside_by_chip


def resolve(study: StudyFile, library: ChipLibrary) -> Resolved:
    """Trace (or fetch) the workload, cost it on every chip type, list the designs and bound them.

    Raises the error of the package that meets a wrong word: an unknown chip, package, workload, model or solver.
    """
    with said_of(study, "space"):
        designs = enumerate_designs(study.space, library)
        for name in study.space.mappers:
            mapping_solver(name)
    types = [library.chip(name) for name in designs.chips]
    with said_of(study, "model"):
        model = cost_model(study.model)
        software = check_software(model, Software(framework=study.framework or "", timer=study.timer or ""))
    with said_of(study, "workload"):
        family = workloads.family(study.workload, mode=study.training or study.mode)
        graph = sized(family, length=study.length, seconds=study.seconds)
    with said_of(study, "segments"):
        segments = workloads.build_segments(graph, **{k: v for k, v in asdict(study.segments).items() if v is not None})
    at_batch: dict[int, SegmentGraph] = {}
    with said_of(study, "space.batches"):
        for batch in study.space.batches:
            other = sized(family, batch=batch, length=study.length, seconds=study.seconds)
            at_batch[batch] = segments if batch == graph.batch else segments.over(other)
    costs = {
        (precision, batch): segment_costs(
            at_batch[batch],
            types,
            model=study.model,
            precision=precision,
            framework=software.framework,
            timer=software.timer,
            calibrations=library.folder,
        )
        for precision in study.space.precisions
        for batch in study.space.batches
    }
    prediction = basis_of_latency(next(iter(costs.values()))) | {"outside": outside_by_chip(costs.values())}
    packages = [library.package(name) for name in study.space.packages]
    planes = _bound_all(study, designs, types, packages, costs)
    exact, fits, misfit = _exact(study, designs, types, packages)
    reason = np.where(fits, planes.reason, misfit)
    cuts = {
        "segments": [asdict(segment) for segment in segments],
        "segment_edges": [
            [int(u), int(v), float(size)] for (u, v), size in zip(segments.edges, segments.edge_bytes, strict=True)
        ],
    }
    datasheets = {
        "chips": [_record(chip) for chip in types],
        "packages": [_record(package) for package in packages],
        "links": [_record(link) for link in {package.link.name: package.link for package in packages}.values()],
        "basis": [
            {"subject": f"latency: model {study.model}", "statement": model.source, "source": _measured(prediction)},
            {"subject": "precision", "statement": PRECISION_BASIS, "source": "assumed"},
            *(asdict(statement) for statement in basis(types, packages)),
        ],
    }
    records = {key: datasheets[key] for key in ("chips", "packages", "links")}
    traced = [graph.to_json(), cuts, *(at_batch[b].graph.to_json() for b in study.space.batches if b != graph.batch)]
    facts = {kind: [_facts(record) for record in rows] for kind, rows in records.items()}
    return Resolved(
        designs=designs,
        bounds=DesignBounds(a=planes.a, b=planes.b, least=planes.least, exact=exact),
        possible=planes.possible & fits,
        reason=reason,
        evaluator=Evaluator(
            costs=costs,
            library=library,
            regime=study.regime,
            inputs=study.inputs,
            trade_offs=ENERGY in study.objectives,
            deadline_s=study.mapping_deadline_s,
            seed=study.seed,
        ),
        workload=describe_workload(study.workload, graph) | cuts,
        datasheets=datasheets,
        fingerprints={"workload_fingerprint": _digest(traced), "library_fingerprint": _digest(facts)}
        | ({"model_fingerprint": prediction["fingerprint"]} if prediction["fingerprint"] else {}),
        software=software,
        prediction=prediction,
    )


@contextmanager
def said_of(study: StudyFile, key: str) -> Iterator[None]:
    """An error about a word of the study says which study, and under which key."""
    try:
        yield
    except (ChipError, DseError, solvers.SolverError, workloads.WorkloadError) as error:
        raise DseError(f"study {study.name}, {key}: {error.message}", error.hint) from error


def _bound_all(
    study: StudyFile,
    designs: Designs,
    types: list[ChipType],
    packages: list[Package],
    costs: dict[tuple[Precision, int], SegmentCosts],
) -> HalfPlanes:
    """Half-planes of all designs, in the units of the study's objectives (energy and rate a sample)."""
    parts: list[tuple[NDArray[np.int64], HalfPlanes]] = []
    for p, package in enumerate(packages):
        for q, precision in enumerate(study.space.precisions):
            for r, batch in enumerate(study.space.batches):
                chosen = np.flatnonzero((designs.package == p) & (designs.precision == q) & (designs.batch == r))
                type_costs = _type_costs(study, package, types, costs[precision, batch])
                planes = half_planes(type_costs, designs.counts[chosen], study.regime)
                parts.append((chosen, _in_objectives(study, planes, batch)))
    order = np.argsort(np.concatenate([chosen for chosen, _ in parts]), kind="stable")
    return HalfPlanes(
        **{
            name: np.concatenate([getattr(planes, name) for _, planes in parts])[order]
            for name in ("a", "b", "least", "possible", "reason")
        }
    )


def _type_costs(study: StudyFile, package: Package, types: list[ChipType], costs: SegmentCosts) -> TypeCosts:
    between = routes(package)
    apart = ~np.eye(len(between.hops), dtype=bool)
    features = chip_features(types, costs.precision)
    return TypeCosts(
        latency_ms=costs.latency_ms,
        energy_mj=costs.energy_mj,
        allowed=costs.allowed,
        resident_bytes=resident_bytes(costs.segments, study.regime),
        workspace_bytes=costs.segments.workspace_bytes,
        capacity_bytes=features["memory_bytes"],
        static_w=features["static_w"],
        edges=costs.segments.edges,
        edge_bytes=costs.segments.edge_bytes,
        hop_ms=float(between.latency_ms[apart].min(initial=np.inf)),
        ms_per_byte=float(between.ms_per_byte[apart].min(initial=np.inf)),
        mj_per_byte=float(between.mj_per_byte[apart].min(initial=np.inf)),
    )


def _in_objectives(study: StudyFile, planes: HalfPlanes, batch: int) -> HalfPlanes:
    """From a batch's ms and mJ to what the objectives count; an axis that is no objective is 1 for every design."""
    # E is a sample's, so b*E_batch = (b*batch)*E; in a pipeline T is a sample's as well
    a = planes.a * (batch if study.regime == "pipelined" else 1)
    b = planes.b * batch
    objectives = Objectives(study.objectives, study.regime)
    time, energy = TIME[study.regime] in objectives.names, ENERGY in objectives.names
    if time and energy:
        return replace(planes, a=a, b=b)
    one, zero = np.ones(len(a)), np.zeros(len(a))
    columns = [
        (a[:, 0], zero, planes.least[:, 0]) if time else (one, zero, np.where(planes.possible, 1.0, np.inf)),
        (zero, b[:, 1], planes.least[:, 1]) if energy else (zero, one, np.where(planes.possible, 1.0, np.inf)),
    ]
    a, b, least = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    return replace(planes, a=a, b=b, least=least)


def _exact(
    study: StudyFile, designs: Designs, types: list[ChipType], packages: list[Package]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.object_]]:
    """Exact criteria [D, X] of each design, whether its chips fit the package, and why not."""
    names = Objectives(study.objectives, study.regime).exact
    exact = np.ones((len(designs), len(names)))
    fits = np.ones(len(designs), bool)
    misfit = np.full(len(designs), "", object)
    # designs that differ in precision, batch or mapper alone are the same hardware
    keys = np.column_stack((designs.counts, designs.package))
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    values, good, why = np.ones((len(first), len(names))), np.ones(len(first), bool), np.full(len(first), "", object)
    for row, index in enumerate(first):
        counts = designs.counts[index]
        chips = [types[t] for t in np.flatnonzero(counts) for _ in range(counts[t])]
        try:
            system = System.build(package=packages[designs.package[index]], chips=chips)
        except ChipError as error:
            good[row], why[row] = False, error.message
            continue
        values[row] = [getattr(system, name) for name in names]
    exact, fits, misfit = values[inverse], good[inverse], why[inverse]
    return exact, fits, misfit


def _measured(prediction: dict[str, Any]) -> str:
    """What a fitted model rests on and speaks for, in words; empty of others."""
    if not prediction["data"]:
        return ""
    rows = ", ".join(f"{source} {count:,}" for source, count in prediction["data"].items())
    chips = chips_by_software(prediction)
    spoken_for = "; ".join(f"{software} ({', '.join(names)})" for software, names in chips.items())
    return f"measured operators: {rows}; weights {prediction['fingerprint']}; speaks for {spoken_for}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _facts(value: Any) -> Any:
    """A record without its sources: a better citation changes no result."""
    if isinstance(value, dict):
        return {key: _facts(item) for key, item in value.items() if key not in ("source", "assumed")}
    return [_facts(item) for item in value] if isinstance(value, list) else value


def _record(value: Any) -> dict[str, Any]:
    """A frozen record as plain JSON data."""
    return {key: _plain(item) for key, item in asdict(value).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return value
