"""What is shown of a workload, by topic: for its own page and for the section of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from reports.blocks import Block, Case, Cases, Cell, Fact, Facts, Figure, Fold, Row, Table, Text, number_cell, text_cell
from reports.format import MISSING, count, listed, number, percent, prefixed
from reports.plots.workload import (
    RIDGES,
    GrowthCurve,
    IntensityPlot,
    LivePlot,
    ShareBars,
    draw_growth,
    draw_intensity,
    draw_live,
    draw_shares,
)
from reports.records import Claim, GrowthPoint, Total, Workload

SHOWN_MODULES = 14

DIFFERENCES = {"flops": "FLOPs", "output_shape": "output"}
"""Field of a claim -> what a reader calls it."""


def summary_blocks(workload: Workload) -> list[Block]:
    """What the workload is, in a sentence or two, and its totals."""
    flops, moved, peak = workload.flops or 0.0, workload.bytes or 0.0, workload.peak_memory
    inputs = listed(["×".join(map(str, shape)) for shape in workload.input_shapes])
    step = "One inference"
    if workload.mode == "train":
        step = f"One training step (forward, backward, {workload.training or 'optimiser'})"
    text = f"{step} of {workload.name or 'this workload'}" + (f" on an input of {inputs}" if inputs else "")
    text += f" ({number(workload.seconds)} s of signal)" if workload.seconds else ""
    text += f" runs {count(len(workload.layers), 'layer')}: {prefixed(flops, 'FLOPs')}"
    text += f" of which {prefixed(2 * (workload.macs or 0.0), 'FLOPs')} are multiply-accumulates, at"
    text += f" {number(flops / moved)} op/B over all." if moved else " an unknown intensity."
    sentences = [text]
    if workload.seconds:
        sentences.append(f"A second of signal takes {prefixed(flops / workload.seconds, 'FLOPs')}.")
    if workload.streaming:
        waits = number(workload.streaming.get("algorithmic_latency_ms"))
        sentences.append(f"On a stream its algorithmic latency is {waits} ms; computing time comes on top.")
    if workload.advice:
        first = workload.advice[0]
        sentences.append(
            f"What weighs most: {first.subject}, {percent(first.severity)} of {first.share_of} ({first.bound})."
        )
    differing = [
        figure
        for figure in workload.reference
        if figure.traced is not None and not _agrees(figure.value, figure.traced)
    ]
    if workload.reference:
        sentences.append(_agreement(len(workload.reference), len(differing)))
    facts = [
        Fact(label="Parameters", value=number(None if workload.parameters is None else int(workload.parameters))),
        Fact(label="Multiply-accumulates", value=prefixed(workload.macs, "MACs")),
        Fact(label="Operations", value=prefixed(workload.flops, "FLOPs")),
        Fact(label="Bytes moved", value=prefixed(workload.bytes, "B")),
    ]
    if peak is not None:
        parts = [(peak.weight_bytes, "weights"), (peak.activation_bytes, "live tensors")]
        parts += [(peak.gradient_bytes, "gradients"), (peak.optimizer_bytes, "optimiser state")]
        note = ", ".join(f"{prefixed(size, 'B')} {what}" for size, what in parts if size)
        facts.append(Fact(label="Peak memory", value=prefixed(sum(size for size, _ in parts), "B"), note=note))
    blocks: list[Block] = [Text(text=" ".join(sentences), tone="lead"), Facts(facts=facts)]
    if workload.uncounted_operators:
        names = listed([operator.name for operator in workload.uncounted_operators])
        blocks.append(Text(text=f"Not counted, and left out of every figure: {names}.", tone="warning"))
    return blocks


def _agrees(value: float, traced: float) -> bool:
    return abs(traced - value) <= 1e-3 * abs(value)


def _agreement(figures: int, differing: int) -> str:
    published = count(figures, "published figure")
    if not differing:
        return f"It has the {published}."
    if differing == figures:
        return f"It differs from the {published}; why stands beside {'it' if figures == 1 else 'them'}."
    return f"It has {number(figures - differing)} of {published}; why the others differ stands beside them."


def advice_blocks(workload: Workload) -> list[Block]:
    """The bottlenecks, the most severe first, with what to build against each."""
    if not workload.advice:
        return []
    cases = [
        Case(
            title=f"{each.subject[:1].upper()}{each.subject[1:]}",
            tag=f"{percent(each.severity)} of {each.share_of} · {each.bound}",
            lines=[
                ("Where", listed(each.where)),
                ("Figures", each.evidence),
                ("Build", each.measure),
                ("Saves", each.gain),
            ],
        )
        for each in workload.advice
    ]
    caption = (
        "Bottlenecks by falling share, each of what it names, and the counter-measure in an ASIC or FPGA. Derived from "
        f"the traced figures alone, at the traced precision; chips have ridge points of {RIDGES[0]:g} to "
        f"{RIDGES[1]:g} op/B."
    )
    return [Cases(cases=cases, caption=caption)]


def module_blocks(workload: Workload) -> list[Block]:
    """Where operations and bytes are: a chart by module, tables by module and by operator."""
    modules = workload.totals.by_module
    flops, moved = workload.flops or 1.0, workload.bytes or 1.0
    if not modules:
        return []
    largest = sorted(modules, key=lambda row: -max(row.flops / flops, row.bytes / moved))[:SHOWN_MODULES]
    shown = [row for row in modules if row in largest]
    bars = ShareBars(
        names=[row.name for row in shown],
        flops=[row.flops / flops for row in shown],
        bytes=[row.bytes / moved for row in shown],
    )
    caption = f"Shares of all FLOPs and of all bytes moved, of the {count(len(shown), 'module')} with the largest."
    return [
        Figure(svg=draw_shares(bars), caption=caption),
        _totals_table("Module", modules, workload),
        Fold(title="By operator", blocks=(_totals_table("Operator", workload.totals.by_operator, workload),)),
    ]


def _totals_table(what: str, totals: Sequence[Total], workload: Workload) -> Table:
    flops, moved = workload.flops or 1.0, workload.bytes or 1.0
    rows = [
        Row(
            cells=[
                text_cell(row.name),
                number_cell(number(row.layers), row.layers),
                number_cell(number(int(row.parameters)), row.parameters),
                number_cell(prefixed(row.macs, ""), row.macs),
                number_cell(prefixed(row.flops, ""), row.flops),
                number_cell(percent(row.flops / flops), row.flops),
                number_cell(prefixed(row.bytes, "B"), row.bytes),
                number_cell(percent(row.bytes / moved), row.bytes),
                number_cell(
                    number(row.flops / row.bytes if row.bytes else 0.0), row.flops / row.bytes if row.bytes else 0
                ),
            ]
        )
        for row in totals
    ]
    columns = [what, "Layers", "Parameters", "MACs", "FLOPs", "Share", "Bytes", "Share", "op/B"]
    caption = f"Totals by {what.lower()}; a weight that several layers read counts once in a row."
    return Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12)


def layer_blocks(workload: Workload) -> list[Block]:
    """Every layer."""
    train = workload.mode == "train"
    rows = [
        Row(
            cells=[
                number_cell(str(index), index),
                *([text_cell(layer.phase)] if train else []),
                text_cell(layer.module or "(model)"),
                text_cell(layer.kind),
                text_cell(layer.operator.removeprefix("aten.").removesuffix(".default")),
                text_cell(layer.size),
                text_cell("×".join(map(str, layer.output_shape))),
                number_cell(number(int(layer.parameters)), layer.parameters),
                number_cell(prefixed(layer.macs, ""), layer.macs),
                number_cell(prefixed(layer.flops, ""), layer.flops),
                number_cell(prefixed(layer.bytes, "B"), layer.bytes),
                number_cell(number(layer.arithmetic_intensity), layer.arithmetic_intensity),
                number_cell(prefixed(layer.live_bytes, "B"), layer.live_bytes),
            ]
        )
        for index, layer in enumerate(workload.layers, start=1)
    ]
    columns = ["#", *(["Phase"] if train else []), "Module", "Kind", "Operator", "Size", "Output"]
    columns += ["Parameters", "MACs", "FLOPs", "Bytes", "op/B", "Live"]
    held = "tensors, gradients and optimiser state that are held" if train else "tensors that are held"
    caption = (
        f"{count(len(rows), 'layer')} in program order. Size: kernel / stride of convolutions, m×k×n of products, "
        f"heads and lengths of attention. Live: {held} while the "
        "layer runs."
    )
    return [Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12)] if rows else []


def intensity_blocks(workload: Workload) -> list[Block]:
    """Intensity against FLOPs, by kind of layer."""
    layers = [layer for layer in workload.layers if layer.flops > 0 and layer.bytes > 0]
    if not layers:
        return []
    flops, moved = np.array([x.flops for x in layers]), np.array([x.bytes for x in layers])
    plot = IntensityPlot(intensity=flops / moved, flops=flops, bytes=moved, kinds=[layer.kind for layer in layers])
    below = float(flops[plot.intensity < RIDGES[0]].sum() / flops.sum())
    below_bytes = float(moved[plot.intensity < RIDGES[0]].sum() / moved.sum())
    caption = (
        f"{count(len(layers), 'layer')} that compute: arithmetic intensity against FLOPs, both logarithmic; the area "
        f"of a disc is the bytes that the layer moves. Left of the band ({RIDGES[0]:g} op/B) memory bandwidth binds on "
        f"every chip: {percent(below)} of the FLOPs and {percent(below_bytes)} of the bytes; right of it "
        f"({RIDGES[1]:g} op/B) arithmetic does."
    )
    return [Figure(svg=draw_intensity(plot), caption=caption)]


def memory_blocks(workload: Workload) -> list[Block]:
    """Live memory over the schedule."""
    live = np.array([layer.live_bytes for layer in workload.layers])
    peak = workload.peak_memory
    if peak is None or not live.any():
        return []
    plot = LivePlot(live_mb=live / 1e6, weights_mb=peak.weight_bytes / 1e6)
    at = int(live.argmax())
    module = workload.layers[at].module or "the model itself"
    beside = "live tensors"
    lives = "each tensor from the layer that writes it to the last that reads it"
    if workload.mode == "train":
        beside = "live tensors, gradients and optimiser state"
        lives = "all else for as long as eager PyTorch holds it"
    caption = (
        f"Memory while each layer runs, in program order on one device: weights all the time, {lives}. The peak, "
        f"{prefixed(float(live[at]), 'B')} of {beside}, is in {module}."
    )
    return [Figure(svg=draw_live(plot), caption=caption)]


def growth_blocks(workload: Workload) -> list[Block]:
    """FLOPs and peak memory against the length of the input, one line a model."""
    curves: dict[str, list[GrowthPoint]] = {}
    for point in workload.growth:
        curves.setdefault(point.name, []).append(point)
    drawn = {name: _curve(points) for name, points in curves.items() if len(points) > 1}
    if not drawn:
        return []
    sentences = []
    for name, curve in drawn.items():
        low, high = (number(end) for end in curve.seconds[-2:])
        words = (
            f"{name}: from {low} to {high} s FLOPs grow as the length to the power "
            f"{number(_slope(curve.seconds, curve.flops))}, peak memory to the power "
            f"{number(_slope(curve.seconds, curve.peak_bytes))}"
        )
        if curve.peak_with_scores_bytes and curve.peak_with_scores_bytes != curve.peak_bytes:
            power = number(_slope(curve.seconds, curve.peak_with_scores_bytes))
            words += f", to the power {power} where attention stores its scores"
        sentences.append(words)
    caption = "FLOPs and peak memory (weights and live tensors) against seconds of signal, all axes logarithmic."
    if any(curve.peak_with_scores_bytes for curve in drawn.values()):
        caption += " Dashed: the peak where softmax attention stores its scores."
    rows = [
        Row(
            cells=[
                text_cell(point.name),
                number_cell(number(point.seconds), point.seconds),
                number_cell(prefixed(point.flops, ""), point.flops),
                number_cell(prefixed(point.peak_bytes, "B"), point.peak_bytes),
                number_cell(prefixed(point.peak_bytes_with_scores, "B"), point.peak_bytes_with_scores),
            ]
        )
        for point in workload.growth
    ]
    columns = ["Model", "Length [s]", "FLOPs", "Peak memory", "Peak with stored scores"]
    table = Table(columns=columns, rows=rows, caption="The points of the plot.", sortable=True, tall=len(rows) > 12)
    text = Text(text=f"{'. '.join(sentences)}. (1 is linear, 2 quadratic.)")
    return [text, Figure(svg=draw_growth(drawn), caption=caption), Fold(title="The figures", blocks=(table,))]


def _curve(points: Sequence[GrowthPoint]) -> GrowthCurve:
    points = sorted(points, key=lambda point: point.seconds)
    scores = [point.peak_bytes_with_scores for point in points]
    return GrowthCurve(
        seconds=[point.seconds for point in points],
        flops=[point.flops for point in points],
        peak_bytes=[point.peak_bytes for point in points],
        peak_with_scores_bytes=[size for size in scores if size is not None] if None not in scores else [],
    )


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Power by which y grows with x at the end."""
    return log(y[-1] / y[-2]) / log(x[-1] / x[-2])


def specification_blocks(workload: Workload) -> list[Block]:
    """The specification's table part by part, what is built, where they differ and why."""
    table = workload.specification
    if table is None:
        return []
    convention = f" How it counts: {table.convention}." if table.convention else ""
    blocks: list[Block] = [Text(text=f"From {table.source}.{convention}")]
    blocks += [Text(text=f"{finding[:1].upper()}{finding[1:]}.", tone="warning") for finding in table.findings]
    rows = []
    for row in table.rows:
        built = row.built or Claim()
        cells = [text_cell(row.part), text_cell(row.claim), text_cell(_output(row.claimed, built, row.differs))]
        cells += _figures(row.claimed, built)
        differs = listed([DIFFERENCES.get(key, key) for key in row.differs]) if row.built else "not built"
        rows.append(Row(cells=[*cells, text_cell(differs)]))
    empty = [text_cell("")] * 2
    sums = [(f"All {name}", group.claimed, group.built) for name, group in table.groups.items()]
    sums += [("All rows", table.sums, Claim()), ("Its own totals", table.total, Claim())]
    sums += [("All built", Claim(), table.built_total)]
    for name, claimed, built in sums:
        rows.append(Row(cells=[text_cell(name), *empty, *_figures(claimed, built), text_cell("")], mark="Σ"))
    columns = ["Part", "Claim", "Output", "Claimed parameters", "Built parameters", "Claimed FLOPs"]
    columns += ["Built, by its rule", "Built, as run", "Differs in"]
    caption = "What the specification claims part by part, and what is built."
    stated = [at for at in range(len(columns)) if any(row.cells[at].text not in ("", MISSING) for row in rows)]
    if any(row.claimed.flops is not None for row in table.rows):
        caption += " FLOPs by the specification's own rule, and as they run."
    else:
        stated.remove(columns.index("Built, by its rule"))
    kept = [Row(cells=[row.cells[at] for at in stated], mark=row.mark) for row in rows]
    blocks.append(Table(columns=[columns[at] for at in stated], rows=kept, caption=caption))
    if table.note:
        blocks.append(Text(text=table.note))
    reasons = [Row(cells=[text_cell(row.part), text_cell(row.note)]) for row in table.rows if row.note]
    if reasons:
        blocks.append(Table(columns=["Part", "Why ours differs"], rows=reasons, caption="Reasons, part by part."))
    return blocks


def _output(claimed: Claim, built: Claim, differs: Sequence[str]) -> str:
    """The claimed shape; the built one beside it where it differs, or alone where none is claimed."""
    shapes = ["×".join(map(str, claim.output_shape or ())) for claim in (claimed, built)]
    if not shapes[0]:
        return shapes[1]
    return f"{shapes[0]}, built {shapes[1]}" if "output_shape" in differs else shapes[0]


def _figures(claimed: Claim, built: Claim) -> list[Cell]:
    values = [claimed.parameters, built.parameters]
    cells = [number_cell(MISSING if v is None else number(int(v)), v) for v in values]
    return cells + [
        number_cell(MISSING if v is None else prefixed(v, ""), v)
        for v in (claimed.flops, built.flops_by_rule, built.flops)
    ]
