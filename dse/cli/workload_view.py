"""A workload on the screen: layers, totals, coverage ledger, published figures, specification, advice, segments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from dse.cli.output import GAP, console, number, print_table

SHOWN_LAYERS = 40
"""Layers of the table where nothing is said: two screens."""

SORT_KEYS = {
    "program": None,
    "flops": "flops",
    "macs": "macs",
    "bytes": "bytes",
    "parameters": "parameters",
    "intensity": "arithmetic_intensity",
    "live": "live_bytes",
}
"""Word of --sort -> key of a layer; None is program order."""

COUNTED = {
    "fvcore": "counted by fvcore's handle",
    "handle": "counted by a handle of ours",
    "estimated": "estimated",
    "moved": "moves data only",
    "alias": "a view: no data moves",
    "refused": "NOT COUNTED",
}

LAYER_COLUMNS = (
    "#",
    "module",
    "kind",
    "operator",
    "size",
    "output",
    "params",
    "MMACs",
    "MFLOPs",
    "MB",
    "op/B",
    "live MB",
)
BY_RULE = "built by its rule"
SPARE_CLAIMS = ("output", "claim", "differs")
DIFFERENCES = {"flops": "FLOPs", "output_shape": "output"}
"""Field of a claim -> what a reader calls it."""

DROPPED_FIRST = ("live MB", "MMACs", "operator", "params", "output", "size")
"""Columns that a narrow terminal does without, in this order."""
MODULE_WIDTH, OPERATOR_WIDTH, TEXT_WIDTH = 18, 20, 120


def show_workload(workload: Mapping[str, Any], *, layers: int | None = SHOWN_LAYERS, sort: str = "program") -> None:
    """Print a workload as `workloads.describe` gives it; of its layers the largest, at most `layers` (None: all)."""
    _layers(workload, layers, sort)
    _totals(workload["totals"]["by_module"], "module", workload)
    _totals(workload["totals"]["by_operator"], "operator", workload)
    _ledger(workload)
    _reference(workload)
    if workload["specification"]:
        _specification(workload["specification"])
    _advice(workload["advice"])
    if workload.get("segments"):
        _segments(workload["segments"])
    if workload.get("growth"):
        _growth(workload["growth"])
    peak = workload["peak_memory"]
    parts = [("weights", "weight_bytes"), ("live tensors", "activation_bytes")]
    parts += [("gradients", "gradient_bytes"), ("optimiser state", "optimizer_bytes")]
    held = ", ".join(f"{number(peak[key] / 1e6)} {what}" for what, key in parts if peak.get(key))
    if streaming := workload.get("streaming"):
        click.echo(
            f"On a stream: algorithmic latency {number(streaming['algorithmic_latency_ms'])} ms "
            f"({number(streaming['hop_ms'])} for the hop to fill, {number(streaming['look_ahead_ms'])} of look-ahead)."
        )
    mode = "" if workload["mode"] == "inference" else f", one training step ({workload['training']})"
    click.echo(
        f"{workload['name']}{mode}: {workload['parameters']:,} parameters, {number(workload['macs'] / 1e9)} GMACs, "
        f"{number(workload['flops'] / 1e9)} GFLOPs, peak memory {number(peak['bytes'] / 1e6)} MB "
        f"({held})."
    )


def chosen_layers(layers: Sequence[Mapping[str, Any]], most: int | None, sort: str) -> list[int]:
    """Indices of the layers to show: by falling `sort`; in program order the largest by FLOPs, in their order."""
    key = SORT_KEYS[sort]
    order = sorted(range(len(layers)), key=lambda index: -layers[index][key or "flops"])
    kept = order if most is None else order[:most]
    return sorted(kept) if key is None else kept


def _layers(workload: Mapping[str, Any], most: int | None, sort: str) -> None:
    layers = workload["layers"]
    chosen = chosen_layers(layers, most, sort)
    columns = list(LAYER_COLUMNS)
    train = workload["mode"] == "train"
    if train:
        columns.insert(1, "phase")
    cells = [_layer_cells(index, layers[index]) for index in chosen]
    widths = {name: max([len(name), *(len(row[name]) for row in cells)]) + GAP for name in columns}
    room = console().width
    for name in DROPPED_FIRST:
        if sum(widths[column] for column in columns if column != "module") + MODULE_WIDTH + GAP > room:
            columns.remove(name)
    module = max(room - sum(widths[column] for column in columns if column != "module") - GAP, MODULE_WIDTH)
    rows = [[_middle(row[name], module) if name == "module" else row[name] for name in columns] for row in cells]
    title = f"{workload['name']}: {len(layers):,} layers"
    if len(chosen) < len(layers):
        largest = "FLOPs" if sort == "program" else sort
        title += f", the {len(chosen)} largest by {largest}{' in program order' if sort == 'program' else ''}"
        title += " (--layers all shows all)"
    text_columns = sum(name in ("#", "phase", "module", "kind", "operator", "size", "output") for name in columns)
    print_table(columns, rows, title=title, left=text_columns)


def _layer_cells(index: int, layer: Mapping[str, Any]) -> dict[str, str]:
    """The cells of one layer by column."""
    refused = layer["counting"] == "refused"
    return {
        "#": str(index + 1),
        "phase": layer["phase"],
        "module": layer["module"] or "(model)",
        "kind": "NOT COUNTED" if refused else layer["kind"],
        "operator": _middle(short_operator(layer["operator"]), OPERATOR_WIDTH),
        "size": layer["size"],
        "output": "x".join(map(str, layer["output_shape"])),
        "params": number(layer["parameters"]),
        "MMACs": number(layer["macs"] / 1e6),
        "MFLOPs": number(layer["flops"] / 1e6),
        "MB": number(layer["bytes"] / 1e6),
        "op/B": number(float(f"{layer['arithmetic_intensity']:.3g}")),
        "live MB": number(layer["live_bytes"] / 1e6),
    }


def short_operator(operator: str) -> str:
    """Return "conv2d" of "aten.conv2d.default"; names of other libraries keep theirs."""
    return operator.split(".")[1] if operator.startswith("aten.") else operator


def overload(operator: str) -> str:
    """Return "conv2d" of "aten.conv2d.default", "add.Tensor" of "aten.add.Tensor": what tells operators apart."""
    return operator.removeprefix("aten.").removesuffix(".default")


def _middle(text: str, width: int) -> str:
    from reports.format import shorten

    return shorten(text, width)


def _totals(totals: Sequence[Mapping[str, Any]], what: str, workload: Mapping[str, Any]) -> None:
    """Print counts summed by module or by operator, the largest first; in a narrow terminal without the lesser."""
    flops, moved = workload["flops"] or 1, workload["bytes"] or 1
    rows = [
        (
            row["name"] if what == "module" else overload(row["name"]),
            row["layers"],
            row["parameters"],
            row["macs"] / 1e6,
            row["flops"] / 1e6,
            f"{100 * row['flops'] / flops:.1f} %",
            row["bytes"] / 1e6,
            f"{100 * row['bytes'] / moved:.1f} %",
        )
        for row in totals
    ]
    columns = (what, "layers", "parameters", "MMACs", "MFLOPs", "of FLOPs", "MB", "of bytes")
    print_table(columns, rows, title=f"By {what}", spare=("MMACs", "layers", "MB", "MFLOPs", "parameters"))


def _ledger(workload: Mapping[str, Any]) -> None:
    """Print how each operator of the model was counted: every call stands here once."""
    formulas: dict[str, set[str]] = {}
    for entry in workload["estimated_operators"]:
        formulas.setdefault(entry["name"], set()).add(entry["formula"])
    rows = [
        (
            overload(operator),
            COUNTED[counting],
            ", ".join(sorted(formulas.get(operator, ()))) if counting == "estimated" else "",
            calls,
        )
        for counting, operators in workload["coverage"].items()
        for operator, calls in operators.items()
    ]
    print_table(("operator", "how", "formula of its operations", "calls"), rows, title="Coverage ledger", left=3)
    for entry in workload["uncounted_operators"]:
        where = "; ".join(entry["sources"])
        click.echo(f"NOT COUNTED: {entry['name']}, {entry['count']} calls{', ' + where if where else ''}")
        click.echo(f"hint: {entry['hint']}")


def _reference(workload: Mapping[str, Any]) -> None:
    """Print what others published beside what was traced here, and why they differ."""
    rows = [
        (
            figure["quantity"],
            figure["source"],
            round(figure["value"]),
            figure["traced"],
            "agrees" if figure["agrees"] else percent(figure["difference"]),
        )
        for figure in workload["reference"]
    ]
    if rows:
        columns = ("figure", "source", "published", "traced", "difference")
        print_table(columns, rows, title="Published figures", left=2)
    _paragraphs(
        f"{figure['quantity']} of {number(round(figure['value']))}: {figure['note']}"
        for figure in workload["reference"]
        if figure["note"]
    )


def _specification(table: Mapping[str, Any]) -> None:
    """Print what a specification claims part by part, beside what is built."""
    rows: list[tuple[Any, ...]] = []
    for row in table["rows"]:
        claimed, built = row["claimed"], row["built"] or {}
        output = shape_text(claimed["output_shape"]) or shape_text(built.get("output_shape"))
        if claimed["output_shape"] and "output_shape" in row["differs"]:
            output += f", built {shape_text(built.get('output_shape'))}"
        differs = ", ".join(DIFFERENCES.get(key, key) for key in row["differs"])
        rows.append((row["part"], row["claim"], output, differs, *_claims(claimed, built)))
    nothing = ("",) * 3
    for name, group in table["groups"].items():
        rows.append((f"group {name}", *nothing, *_claims(group["claimed"], group["built"])))
    rows.append(("all rows, added up", *nothing, *_claims(table["sums"], {})))
    rows.append(("the totals it prints", *nothing, *_claims(table["total"], {})))
    rows.append(("built, whole", *nothing, *_claims({}, table["built_total"])))
    names = ["part", "claim", "output", "differs", "claimed parameters", "built", "claimed MFLOPs", BY_RULE, "as run"]
    kept = [0, *(at for at in range(1, len(names)) if any(row[at] for row in rows))]
    if not any(row["claimed"].get("flops") for row in table["rows"]):
        kept.remove(names.index(BY_RULE))
    cells = [[row[at] for at in kept] for row in rows]
    title = f"Specification part by part: {table['source']}"
    print_table([names[at] for at in kept], cells, title=title, left=sum(at < 4 for at in kept), spare=SPARE_CLAIMS)
    reasons = [f"{row['part']}: {row['note']}" for row in table["rows"] if row["note"]]
    _paragraphs((table["convention"], *table["findings"], table["note"], *reasons))


def _paragraphs(texts: Iterable[str]) -> None:
    """Print each text that is not empty, and a line after the last."""
    filled = [textwrap.fill(text, min(console().width, TEXT_WIDTH), subsequent_indent="  ") for text in texts if text]
    if filled:
        click.echo("\n".join([*filled, ""]))


def _claims(claimed: Mapping[str, Any], built: Mapping[str, Any]) -> tuple[Any, ...]:
    """Parameters claimed and built; MFLOPs claimed, built by the specification's rule, and built as they run."""
    return (
        claimed.get("parameters"),
        built.get("parameters"),
        mega(claimed.get("flops")),
        mega(built.get("flops_by_rule")),
        mega(built.get("flops")),
    )


def _advice(advice: Sequence[Mapping[str, Any]]) -> None:
    """Print the bottlenecks, the most severe first: the figures, what to build, what it saves."""
    if not advice:
        return
    click.echo("Bottlenecks, and what to build against them")
    width = min(console().width, TEXT_WIDTH)
    for each in advice:
        where = ", ".join(each["where"])
        click.echo(
            f"\n  {each['subject']} ({percent(each['severity'], sign=False)} of {each['share_of']}): {each['bound']}"
        )
        for label, text in (
            ("where", where),
            ("figures", each["evidence"]),
            ("build", each["measure"]),
            ("gain", each["gain"]),
        ):
            lines = textwrap.wrap(text, width - 14) or [""]
            click.echo(f"    {label:<9} {lines[0]}")
            for line in lines[1:]:
                click.echo(f"              {line}")
    click.echo()


def _segments(segments: Mapping[str, Any]) -> None:
    """Print segments of least cut, and how many bytes cross the cuts of fixed size."""
    rows = [
        (
            segment["id"],
            _middle(segment["name"], 60),
            segment["layers"],
            percent(segment["flops_share"], sign=False),
            segment["weight_bytes"] / 1e6,
            segment["workspace_bytes"] / 1e6,
            segment["traffic_in_bytes"] / 1e6,
            segment["traffic_out_bytes"] / 1e6,
        )
        for segment in segments["least_cut"]["segments"]
    ]
    columns = ("segment", "modules", "layers", "of FLOPs", "weights MB", "live MB", "in MB", "out MB")
    print_table(columns, rows, title=f"{len(rows)} segments of least cut", left=2)
    for name, way in (("least cut", segments["least_cut"]), ("fixed size", segments["fixed_size"])):
        click.echo(
            f"{name}: {number(way['cut_bytes'] / 1e6)} MB cross its cuts, its heaviest segment holds "
            f"{percent(way['heaviest_share'], sign=False)} of the FLOPs"
        )
    click.echo()


def _growth(points: Sequence[Mapping[str, Any]]) -> None:
    """Print operations and peak memory of each model over lengths of signal."""
    rows = [
        (
            point["name"],
            point["seconds"],
            point["flops"] / 1e9,
            point["attention_flops"] / 1e9,
            point["peak_bytes"] / 1e6,
            point["peak_bytes_with_scores"] / 1e6,
        )
        for point in points
    ]
    columns = ("model", "seconds", "GFLOPs", "of attention", "peak MB", "peak MB with stored scores")
    print_table(columns, rows, title="Growth with length")


def shape_text(shape: Sequence[int] | None) -> str:
    """Return "1x48x512"; nothing of what is not stated."""
    return "x".join(map(str, shape)) if shape else ""


def mega(value: float | None) -> float | None:
    """Return millions."""
    return None if value is None else value / 1e6


def percent(value: float | None, *, sign: bool = True) -> str:
    """Return a share as "+12.3 %"."""
    if value is None:
        return "-"
    return f"{100 * value:+.2f} %" if sign else f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"
