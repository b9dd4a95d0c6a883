"""Device placement, throughput, free assignment: the best known value or better, and open gaps narrowed."""

from __future__ import annotations

from solvers.formats import Reading
from tests.benchmarks.figure import Figure
from tests.benchmarks.mapping_instances import above, instances, label, of_solver, run, worst

DEADLINE_S = 60.0
FOLDER = "dnn-partitioning/throughput-inputs"
KNOWN = {
    "LayerGraphs/bert24_inference": (17.7147, 16.28),
    "LayerGraphs/bert24_training": (39.7895, 39.7895),
    "LayerGraphs/gnmt_inference": (31.6873, 31.6873),
    "LayerGraphs/gnmt_training": (88.4622, 88.4622),
    "LayerGraphs/inceptionv3_inference": (51.300, 50.98),
    "LayerGraphs/resnet50_inference": (33.4043, 33.1141),
    "LayerGraphs/resnet50_training": (76.6569, 75.80),
    "OperatorGraphs/bert_L-12_training": (385.6768, 313.02),
    "OperatorGraphs/bert_l-12_inference": (135.63, 106.36),
    "OperatorGraphs/bert_l-3_inference": (21.9084, 21.9084),
    "OperatorGraphs/bert_l-6_inference": (28.3322, 25.45),
    "OperatorGraphs/bert_l-6_training": (71.6423, 63.39),
    "OperatorGraphs/resnet50_inference": (124.3488, 124.3488),
    "OperatorGraphs/resnet50_training": (255.1944, 220.85),
}
"""Largest load in ms and lower bound: the best of CP-SAT and HiGHS after 60 CPU seconds (optimal_results.csv)."""
ROUNDING = 1e-3  # percent
NARROWER = 1e-4  # relative; a better value or bound, beyond what the table's digits hide


def measure() -> list[Figure]:
    """How far the worst answer lies above the best known one, open gaps that are narrower, CPU seconds."""
    known = {f"{FOLDER}/{name}.json": values for name, values in KNOWN.items()}
    comparison = run(instances(known, Reading(contiguous=False, goal="throughput")), DEADLINE_S)
    figures = []
    for solver in comparison.solvers:
        answers = of_solver(comparison, solver)
        narrower = []
        for a in answers:
            value, bound = known[a.instance]
            better = a.objective is not None and a.objective < value * (1 - NARROWER)
            tighter = a.lower_bound is not None and a.lower_bound > bound * (1 + NARROWER)
            if bound < value * (1 - NARROWER) and (better or tighter):
                narrower.append(label(a.instance))
        values = {name: value for name, (value, _) in known.items()}
        most = max(answers, key=lambda a: a.cpu_s or 0.0)
        figures += [
            worst(f"free placement, worst above the best known, {solver}", above(answers, values), ROUNDING),
            Figure(
                figure=f"free placement, open gaps narrowed, {solver}",
                goal=2,
                measured=len(narrower),
                unit="instances",
                note=", ".join(narrower),
            ),
            Figure(
                figure=f"free placement, most CPU time, {solver}",
                goal=DEADLINE_S * 1.05,
                measured=most.cpu_s or 0.0,
                unit="CPU s",
                higher_is_better=False,
                note=label(most.instance),
            ),
        ]
    return figures
