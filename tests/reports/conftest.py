"""A run folder as docs/run_folder.md defines it, made up but consistent: sums add up, spans do not overlap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHIPS = ["big_core", "small_core", "npu_tile", "sram_tile"]
PEAK = {"big_core": 120e12, "small_core": 30e12, "npu_tile": 60e12, "sram_tile": 20e12}
BANDWIDTH = {"big_core": 800e9, "small_core": 200e9, "npu_tile": 400e9, "sram_tile": 2000e9}
KINDS = ["conv", "norm", "elementwise", "linear", "attention", "softmax", "copy", "fft"]
OPERATOR = {
    "conv": "aten.convolution.default",
    "norm": "aten.group_norm.default",
    "elementwise": "aten.gelu.default",
    "linear": "aten.linear.default",
    "attention": "aten.scaled_dot_product_attention.default",
    "softmax": "aten.softmax.int",
    "copy": "aten.cat.default",
    "fft": "aten._fft_r2c.default",
}
SEGMENTS, LAYERS_PER_SEGMENT = 50, 8


def workload(rng: np.random.Generator) -> dict[str, Any]:
    layers = []
    for index in range(SEGMENTS * LAYERS_PER_SEGMENT):
        kind = KINDS[index % len(KINDS)]
        module = f"encoder.{index // 80}.dconv.layers.{index % 7}" if index < 240 else f"decoder.{index // 80}.rewrite"
        matrix = kind in ("conv", "linear", "attention")
        macs = int(rng.uniform(5e7, 1.5e9)) if matrix else (int(rng.uniform(1e5, 1e7)) if kind == "norm" else 0)
        flops = 2 * macs if macs else (0 if kind == "copy" else int(rng.uniform(1e5, 1e8)))
        counting = {"attention": "handle", "copy": "moved"}.get(kind, "fvcore" if macs else "estimated")
        layers.append(
            {
                "name": f"{kind}_{index}",
                "operator": OPERATOR[kind],
                "kind": kind,
                "module": module,
                "output_shape": [1, 48, 1024],
                "parameters": int(rng.uniform(1e3, 3e5)) if matrix else 0,
                "macs": macs,
                "flops": flops,
                "bytes": int(rng.uniform(1e5, 2e7)),
                "counting": counting,
                "formula": {"elementwise": "8 per element", "softmax": "5 per element", "fft": "5 N log2 N"}.get(
                    kind, ""
                ),
            }
        )
    segments = []
    for k in range(SEGMENTS):
        own = range(k * LAYERS_PER_SEGMENT, (k + 1) * LAYERS_PER_SEGMENT)
        segments.append(
            {
                "id": k,
                "layer_indices": list(own),
                "name": layers[own[0]]["module"],
                "flops": float(sum(layers[i]["flops"] for i in own)),
                "bytes": float(sum(layers[i]["bytes"] for i in own)),
                "weight_bytes": 4.0 * sum(layers[i]["parameters"] for i in own),
            }
        )
    edges = [[k, k + 1, 1.5e6] for k in range(SEGMENTS - 1)] + [[5, 45, 3e6], [10, 40, 2e6]]
    return {
        "schema": 1,
        "name": "htdemucs",
        "parameters": 26_899_536,
        "macs": sum(layer["macs"] for layer in layers),
        "flops": sum(layer["flops"] for layer in layers),
        "layers": layers,
        "estimated_operators": [{"name": "aten.gelu.default", "formula": "8 per element", "count": 50, "flops": 5e9}],
        "uncounted_operators": [],
        "aliases": {"aten.view.default": 120, "aten.transpose.int": 31},
        "reference": [
            {
                "quantity": "parameters",
                "value": 20_930_880.0,
                "traced": 26_899_536,
                "agrees": False,
                "source": "specification",
                "note": "the published tool leaves out the projections of attention",
            },
            {"quantity": "parameters", "value": 26_899_536, "traced": 26_899_536, "agrees": True, "source": "code"},
        ],
        "segments": segments,
        "segment_edges": edges,
    }


def library(names: list[str]) -> dict[str, Any]:
    chips = [
        {
            "name": name,
            "peak_flops": {"fp16": PEAK[kind], "fp32": PEAK[kind] / 4},
            "vector_flops": PEAK[kind] / 16,
            "peak_bw": BANDWIDTH[kind],
            "mem_gb": 8.0,
            "area_mm2": 100.0,
            "width_mm": 10.0,
            "height_mm": 10.0,
            "tdp_w": 60.0,
            "achievable": 0.8,
            "achievable_bw": 1.0,
            "assumed": ["tdp_w", "achievable_bw"] if kind == "big_core" else [],
            "source": {"*": f"datasheet of {kind}, https://example.org/{kind}.pdf", "peak_flops": "table 3"},
        }
        for name, kind in zip(names, CHIPS, strict=True)
    ]
    link = {
        "name": "ucie_advanced",
        "bandwidth_gb_s": 64.0,
        "latency_ns": 20.0,
        "pj_per_bit": 0.5,
        "source": "UCIe 1.1",
        "assumed": [],
    }
    package = {
        "name": "interposer_2x2",
        "kind": "interposer",
        "shape": "rectangle",
        "width_mm": 26.0,
        "height_mm": 26.0,
        "rows": 2,
        "columns": 2,
        "slot_width_mm": 12.0,
        "slot_height_mm": 12.0,
        "spacing_mm": 1.0,
        "edge_mm": 0.5,
        "topology": "mesh",
        "link": link,
        "source": "an interposer of our own",
        "assumed": ["spacing_mm"],
    }
    basis = [{"subject": "die cost", "statement": "Known good die <wafer / yield>.", "source": "Chiplet Actuary"}]
    return {"schema": 1, "chips": chips, "packages": [package], "links": [link], "basis": basis}


def metrics_of(latency_ms: float, energy_mj: float, cost_usd: float) -> dict[str, float]:
    return {
        "latency_ms": latency_ms,
        "throughput_per_s": 1e3 / latency_ms,
        "energy_mj": energy_mj,
        "peak_memory_mb": 512.25,
        "area_mm2": 400.0,
        "cost_usd": cost_usd,
        "power_w": energy_mj / latency_ms,
        "utilisation": 0.61,
        "contention_ms": 0.02,
    }


def timeline(work: dict[str, Any], point: dict[str, Any], inputs: int, rng: np.random.Generator) -> dict[str, Any]:
    names = point["params"]["chips"]
    slots = range(len(names))
    kind_of = {slot: CHIPS[slot % len(CHIPS)] for slot in slots}
    assignment = [min(k * len(names) // SEGMENTS, len(names) - 1) for k in range(SEGMENTS)]
    segments, layers = [], []
    for k, segment in enumerate(work["segments"]):
        chip, total = kind_of[assignment[k]], 0.0
        for index in segment["layer_indices"]:
            layer = work["layers"][index]
            compute, memory = layer["flops"] / (0.8 * PEAK[chip]) * 1e3, layer["bytes"] / BANDWIDTH[chip] * 1e3
            vector = layer["flops"] / (PEAK[chip] / 16) * 1e3 if not layer["macs"] else 0.0
            latency = max(compute, memory, vector) * rng.uniform(1.0, 1.6)
            bound = ["compute", "memory", "vector"][int(np.argmax([compute, memory, vector]))]
            layers.append(
                {
                    "index": index,
                    "slot": assignment[k],
                    "latency_ms": latency,
                    "flops": layer["flops"],
                    "bytes": layer["bytes"] / 2,
                    "bound": bound,
                }
            )
            total += latency
        segments.append(
            {
                "id": k,
                "name": segment["name"],
                "slot": assignment[k],
                "latency_ms": total,
                "latency_low_ms": 0.5 * total,
                "latency_high_ms": 3.0 * total,
                "energy_mj": total * 12.0,
                "flops": segment["flops"],
                "bytes": segment["bytes"] / 2,
                "bound": ["compute", "memory", "vector"][k % 3],
            }
        )
    free = dict.fromkeys(slots, 0.0)
    link_free: dict[tuple[int, int], float] = {}
    compute, transfers, memory = [], [], [[slot, 0.0, 40e6 * (slot + 1)] for slot in slots]
    traffic: dict[tuple[int, int], list[float]] = {}
    for item in range(inputs):
        ready = [0.0] * SEGMENTS
        for k in range(SEGMENTS):
            slot = assignment[k]
            start = max(free[slot], ready[k])
            end = start + segments[k]["latency_ms"]
            free[slot] = end
            compute.append([k, slot, item, start, end])
            memory.append([slot, start, (60 + 20 * (k % 5)) * 1e6])
            memory.append([slot, end, 40e6 * (slot + 1)])
            for source, target, size in work["segment_edges"]:
                if source == k:
                    arrival = end
                    if assignment[target] != slot:
                        pair = (slot, assignment[target])
                        begin = max(end, link_free.get(pair, 0.0))
                        arrival = begin + size / 64e9 * 1e3 + 20e-6
                        link_free[pair] = arrival
                        transfers.append([k, target, item, *pair, begin, arrival, size])
                        entry = traffic.setdefault(pair, [0.0, 0.0])
                        entry[0] += size
                        entry[1] += arrival - begin
                    ready[target] = max(ready[target], arrival)
    makespan = max(span[4] for span in compute)
    busy = [sum(span[4] - span[3] for span in compute if span[1] == slot) for slot in slots]
    energy, cost = point["metrics"]["energy_mj"], point["metrics"]["cost_usd"]
    return {
        "schema": 1,
        **point,
        "package": {
            "name": "interposer_2x2",
            "kind": "interposer",
            "shape": "rectangle",
            "width_mm": 26.0,
            "height_mm": 26.0,
            "topology": "mesh",
            "link": {"name": "ucie_advanced", "bandwidth_gb_s": 64.0, "latency_ns": 20.0, "pj_per_bit": 0.5},
        },
        "chips": [
            {
                "slot": slot,
                "name": names[slot],
                "x_mm": 1.5 + 13.0 * (slot % 2),
                "y_mm": 1.5 + 13.0 * (slot // 2),
                "width_mm": 10.0,
                "height_mm": 10.0,
                "rotated": False,
                "busy_ms": busy[slot],
                "utilisation": busy[slot] / makespan,
                "peak_memory_mb": 140.0,
                "memory_mb": 8000.0 if slot else 256.0,
                "power_w": 12.5 * (slot + 1),
                "weights_mb": 26.9,
            }
            for slot in slots
        ],
        "links": [
            {"source": a, "target": b, "bytes": size, "busy_ms": time, "utilisation": time / makespan}
            for (a, b), (size, time) in sorted(traffic.items())
        ],
        "segments": segments,
        "layers": layers,
        "rooflines": {
            names[slot]: {
                "peak_flops": PEAK[kind_of[slot]],
                "vector_flops": PEAK[kind_of[slot]] / 16,
                "peak_bw": BANDWIDTH[kind_of[slot]],
                "achievable": 0.8,
                "achievable_bw": 1.0,
            }
            for slot in slots
        },
        "prediction": prediction(
            names,
            intervals=intervals_of(point["metrics"]),
            outside={
                "share": 0.4,
                "cases": [{"chip": names[0], "kind": "fft", "reasons": ["operator"], "layers": 2, "share": 0.4}],
            },
        ),
        "compute": compute,
        "transfers": transfers,
        "memory": sorted(memory, key=lambda event: event[1]),
        "cost": {"dies": 0.55 * cost, "memory": 0.2 * cost, "package": 0.15 * cost, "bonding": 0.1 * cost},
        "energy": {"compute": 0.6 * energy, "memory": 0.25 * energy, "links": 0.03 * energy, "static": 0.12 * energy},
        "mapping": {"solver": "cp_sat", "objective": 12.0, "lower_bound": 11.7, "gap": 0.026, "status": "feasible"},
        "contention": {"with_ms": makespan, "without_ms": makespan * 0.99},
        "placement": {"wirelength_byte_mm": 3.1e8, "lower_bound": 2.9e8, "solver": "grid"},
    }


def outside_of_chips(names: list[str]) -> list[dict[str, Any]]:
    """The first chip is of a new maker, the second knows no Fourier transform."""
    return [
        {"chip": names[0], "precision": "fp16", "batch": 1, "share": 1.0, "reasons": {"chip": 1.0, "operator": 0.1}},
        {"chip": names[-1], "precision": "fp16", "batch": 1, "share": 0.1, "reasons": {"operator": 0.1}},
    ]


SOFTWARE = {"framework": "torch2.1.0", "timer": "cuda_event_min5of25"}


def prediction(names: list[str], **more: Any) -> dict[str, Any]:
    """What gave the latencies."""
    return {
        "model": "learned",
        "framework": "torch",
        "timer": None,
        "software": dict.fromkeys(names, SOFTWARE),
        "data": {"lab": 1_000_000, "own": 9_524},
        "coverage": 0.9,
        "fingerprint": "0123456789abcdef",
        "calibrated": [],
        **more,
    }


def intervals_of(metrics: dict[str, float]) -> dict[str, list[float]]:
    """A made-up interval of each metric of time."""
    return {name: [0.5 * metrics[name], 3.0 * metrics[name]] for name in ("latency_ms", "throughput_per_s")}


def build_run(
    folder: Path,
    *,
    objectives: tuple[str, ...] = ("latency_ms", "energy_mj", "cost_usd"),
    designs: int = 600,
    inputs: int = 1,
    chip_names: list[str] | None = None,
    seed: int = 7,
) -> Path:
    """Write a run folder with a front of about a quarter of the designs and the knee and the front's ends in detail."""
    rng = np.random.default_rng(seed)
    names = chip_names or CHIPS
    (folder / "results").mkdir(parents=True)
    (folder / "timelines").mkdir()
    work = workload(rng)
    rows, front = [], []
    for number in range(designs):
        design = f"{number * 2654435761 % 2**32:08x}"
        params = {
            "chips": [names[int(i)] for i in rng.integers(0, len(names), int(rng.integers(1, 5)))],
            "package": "interposer_2x2",
            "precision": ["fp16", "fp32"][number % 2],
            "batch": 1,
            "mapper": "local_search",
        }
        row = {
            "schema": 1,
            "design": design,
            "params": params,
            "status": "ok",
            "reason": "",
            "wall_s": 0.01,
            "points": [],
        }
        if number % 20 == 19:
            reason = ["memory: 24.0 MB of weights do not fit 16.0 MB", "precision: no chip offers fp8"][
                number // 20 % 2
            ]
            row |= {"status": "infeasible", "reason": reason}
        else:
            on_front = number % 4 == 0
            if number == 0:
                params["chips"] = list(names)
            place = (number / designs) if on_front else rng.uniform()
            slack = 1.0 if on_front else rng.uniform(1.05, 3.0)
            values = metrics_of(
                4.0 * 12.0**place * slack, 900.0 * 5.0**-place * slack, 90.0 + 800.0 * (1 - place) * slack
            )
            row["points"] = [
                {
                    "metrics": values,
                    "assignment": [k * len(params["chips"]) // SEGMENTS for k in range(SEGMENTS)],
                    "site": list(range(len(params["chips"]))),
                    "weights": [1.0, 0.0],
                    "solver": "local_search",
                    "objective": 12.0,
                    "lower_bound": 11.0,
                    "gap": 0.09,
                    "mapping_status": "feasible",
                }
            ]
            if on_front:
                point = {"design": design, "point": 0, "params": params, "metrics": values}
                front.append(point | {"intervals": intervals_of(values)})
        rows.append(row)
    middle = len(front) // 3
    front[middle]["params"]["chips"] = list(names)
    half = len(rows) // 2
    for writer, part in enumerate((rows[:half], rows[half:])):
        (folder / "results" / f"worker-{writer}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for place in (0, middle, -1):
        detail = timeline(work, front[place], inputs, rng)
        (folder / "timelines" / f"{front[place]['design']}-0.json").write_text(json.dumps(detail))
    infeasible = sum(row["status"] == "infeasible" for row in rows)
    history = [
        {
            "evaluated": n,
            "wall_s": n / 50,
            "hypervolume": 1.0 - 0.6 * 2.0 ** (-n / 60),
            "epsilon": None if n < 100 else 0.4 * 2.0 ** (-n / 200),
            "open_unmapped": max(0, 2 * (designs - n)),
        }
        for n in range(10, len(rows), 20)
    ]
    summary = {
        "schema": 1,
        "study": "htdemucs",
        "workload": "htdemucs",
        "objectives": list(objectives),
        "regime": "serial" if inputs == 1 else "pipelined",
        "model": "learned",
        "prediction": prediction(names, outside=outside_of_chips(names)),
        "designs": 2340,
        "infeasible": infeasible,
        "evaluated": len(rows) - infeasible,
        "failed": 0,
        "ruled_out": 630,
        "open_unmapped": 1110,
        "epsilon": 0.062,
        "epsilon_basis": "half-planes of the contention-free chain bound, all designs",
        "hypervolume": 0.8731,
        "reference_point": [50.0, 1000.0, 900.0][: len(objectives)],
        "front": front,
        "knee": {"design": front[middle]["design"], "point": 0},
        "history": history,
        "infeasible_reasons": {"memory: weights do not fit": infeasible - 2, "precision: no chip offers it": 2},
        "damaged_rows": [{"file": "results/worker-0.jsonl", "line": 17, "reason": "not JSON: line cut short"}],
        "wall_s": 48.2,
    }
    for name, value in {
        "summary.json": summary,
        "workload.json": work,
        "library.json": library(names),
        "environment.json": {
            "schema": 1,
            "versions": {"chipfront": "0.1.0", "numpy": "2.4.0", "torch": "2.13.0"},
            "seed": 0,
            "commit": "f96672e",
            "machine": {"cpu": "Xeon", "cores": 2, "memory_gb": 16.0, "platform": "Linux"},
            "started": "2026-11-21T09:00:00+00:00",
            "command": "dse run htdemucs",
        },
    }.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "study.yaml").write_text("name: htdemucs\nworkload: htdemucs\nobjectives: [latency_ms, energy_mj]\n")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a made-up run folder and returns its path."""

    def make(name: str = "run", **options: Any) -> Path:
        return build_run(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder that tests may read but not change."""
    return build_run(tmp_path_factory.mktemp("shared") / "run")
