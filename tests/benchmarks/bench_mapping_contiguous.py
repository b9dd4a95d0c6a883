"""Device placement, throughput, contiguous stages: the proven optimum of every instance."""

from __future__ import annotations

from solvers.formats import Reading
from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import above, instances, label, of_solver, run, share_of, worst

DEADLINE_S = 20.0
FOLDER = "dnn-partitioning/throughput-inputs"
OPTIMA = {
    "LayerGraphs/bert24_inference": 17.7899,
    "LayerGraphs/bert24_training": 41.7458,
    "LayerGraphs/gnmt_inference": 32.9107,
    "LayerGraphs/gnmt_training": 107.0044,
    "LayerGraphs/inceptionv3_inference": 51.5519,
    "LayerGraphs/resnet50_inference": 33.7747,
    "LayerGraphs/resnet50_training": 78.6318,
    "OperatorGraphs/bert_L-12_training": 437.9976,
    "OperatorGraphs/bert_l-12_inference": 147.478,
    "OperatorGraphs/bert_l-3_inference": 27.9186,
    "OperatorGraphs/bert_l-6_inference": 29.5795,
    "OperatorGraphs/bert_l-6_training": 72.865,
    "OperatorGraphs/resnet50_inference": 124.3488,
    "OperatorGraphs/resnet50_training": 255.1944,
}
"""Largest load in ms, proven by CP-SAT with ideal booleans, printed with four decimals (optimal_results.csv)."""
ROUNDING = 1e-3  # percent


def measure() -> list[Figure]:
    """Instances proven in 20 s, and how far the worst answer lies above the optimum."""
    known = {f"{FOLDER}/{name}.json": value for name, value in OPTIMA.items()}
    comparison = run(instances(known, Reading(contiguous=True, goal="throughput")), DEADLINE_S)
    figures = []
    for solver in comparison.solvers:
        answers = of_solver(comparison, solver)
        proven = {a.instance: a.status == "optimal" and a.wall_s <= DEADLINE_S for a in answers}
        slowest = max(answers, key=lambda a: a.wall_s)
        note = f"; slowest {slowest.wall_s:.1f} s: {label(slowest.instance)}"
        figures += [
            share_of(f"contiguous placement, proven in {DEADLINE_S:g} s, {solver}", proven, note),
            worst(f"contiguous placement, worst above the optimum, {solver}", above(answers, known), ROUNDING),
        ]
    return figures
