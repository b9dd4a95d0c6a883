"""Device placement, latency of one sample: no worse than the best of the table, and a bound three times its own."""

from __future__ import annotations

from solvers.formats import Reading
from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import above, instances, of_solver, run, share_of, worst

DEADLINE_S = 60.0
FOLDER = "dnn-partitioning/latency-inputs"
KNOWN = {
    "LayerGraphs/bert24_inference": (100.2185, 100.218),
    "LayerGraphs/gnmt_inference": (225.6479, 35.357),
    "LayerGraphs/inceptionv3_inference": (1585.1010, 19.980),
    "LayerGraphs/resnet50_inference": (1330.6631, 17.800),
    "OperatorGraphs/bert_l-12_inference": (774.0895, 11.704),
    "OperatorGraphs/bert_l-3_inference": (408.4744, 408.467),
    "OperatorGraphs/bert_l-6_inference": (438.0625, 30.049),
}
"""Latency in ms and lower bound of CP-SAT after 60 CPU seconds, the best column everywhere (latency_results.csv)."""
BOUND_RATIO = 3.0
PROVEN = 1e-4  # relative; the table's bounds have three decimals
ROUNDING = 1e-3  # percent


def measure() -> list[Figure]:
    """How far the worst answer lies above the table, and instances that are proven or have three times its bound."""
    known = {f"{FOLDER}/{name}.json": values for name, values in KNOWN.items()}
    comparison = run(instances(known, Reading(goal="latency", contiguous=False)), DEADLINE_S)
    figures = []
    for solver in comparison.solvers:
        answers = of_solver(comparison, solver)
        open_ones = [a for a in answers if known[a.instance][1] < known[a.instance][0] * (1 - PROVEN)]
        bounds = {
            a.instance: a.status == "optimal" or (a.lower_bound or 0.0) >= BOUND_RATIO * known[a.instance][1]
            for a in open_ones
        }
        ratios = [(a.lower_bound or 0.0) / known[a.instance][1] for a in open_ones if a.status != "optimal"]
        note = f"; least ratio {min(ratios):.3g}" if ratios else ""
        figures += [
            worst(
                f"latency placement, worst above the table, {solver}",
                above(answers, {name: value for name, (value, _) in known.items()}),
                ROUNDING,
            ),
            share_of(
                f"latency placement, bound three times the table's where that is no proof, {solver}", bounds, note
            ),
        ]
    return figures
