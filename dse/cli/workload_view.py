"""A workload on the screen: its layers, totals, coverage ledger, and published figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from dse.cli.output import number, print_table

GROUPS = 20  # rows of a table of totals
COUNTED = {
    "fvcore": "counted by fvcore's handle",
    "handle": "counted by a handle of ours",
    "estimated": "estimated",
    "moved": "moves data only",
    "alias": "a view: no data moves",
    "refused": "NOT COUNTED",
}


def show_workload(workload: Mapping[str, Any]) -> None:
    """Print a workload as `workloads.describe` gives it."""
    layers = workload["layers"]
    print_table(
        ("layer", "operator", "module", "output", "counting", "parameters", "MMACs", "MFLOPs", "MB"),
        [
            (
                layer["name"],
                layer["operator"],
                layer["module"],
                "x".join(map(str, layer["output_shape"])),
                layer["counting"],
                layer["parameters"],
                layer["macs"] / 1e6,
                layer["flops"] / 1e6,
                layer["bytes"] / 1e6,
            )
            for layer in layers
        ],
        title=f"{workload['name']}: {len(layers)} layers",
        left=5,
    )
    _totals(layers, "module", lambda layer: ".".join(layer["module"].split(".")[:2]) or "(model)")
    _totals(layers, "operator", lambda layer: str(layer["operator"]))
    _ledger(workload)
    _reference(workload)
    click.echo(
        f"{workload['name']}: {workload['parameters']:,} parameters, {number(workload['macs'] / 1e9)} GMACs, "
        f"{number(workload['flops'] / 1e9)} GFLOPs."
    )
    for row in workload["uncounted_operators"]:
        lines = "".join(f"\n  at {source}" for source in row["sources"])
        click.echo(f"NOT COUNTED, so these figures are not whole: {row['name']}, {row['count']} calls.{lines}")
        click.echo(f"  {row['hint']}")


def _totals(layers: list[dict[str, Any]], what: str, key: Callable[[dict[str, Any]], str]) -> None:
    """Print counts summed by module or by operator, the largest first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    groups = dict(sorted(groups.items(), key=lambda item: -sum(layer["flops"] for layer in item[1])))
    rows = [
        (
            name,
            len(group),
            sum(layer["parameters"] for layer in group),
            sum(layer["macs"] for layer in group) / 1e6,
            sum(layer["flops"] for layer in group) / 1e6,
            sum(layer["bytes"] for layer in group) / 1e6,
        )
        for name, group in groups.items()
    ]
    shown = f", the largest {GROUPS} of {len(rows)}" if len(rows) > GROUPS else ""
    columns = (what, "layers", "parameters", "MMACs", "MFLOPs", "MB")
    print_table(columns, rows[:GROUPS], title=f"By {what}{shown}")


def _ledger(workload: Mapping[str, Any]) -> None:
    """Print how each operator of the model was counted: every call stands here once."""
    formulas: dict[str, set[str]] = {}
    for entry in workload["estimated_operators"]:
        formulas.setdefault(entry["name"], set()).add(entry["formula"])
    rows = [
        (
            operator,
            COUNTED[counting],
            ", ".join(sorted(formulas.get(operator, ()))) if counting == "estimated" else "",
            calls,
        )
        for counting, operators in workload["coverage"].items()
        for operator, calls in operators.items()
    ]
    print_table(("operator", "how", "formula of its operations", "calls"), rows, title="Coverage ledger", left=3)


def _reference(workload: Mapping[str, Any]) -> None:
    """Print what others published beside what was traced here."""
    rows = [
        (
            figure["quantity"],
            "agrees" if figure["agrees"] else "differs",
            figure["source"] + (f" ({figure['note']})" if figure["note"] else ""),
            round(figure["value"]),
            figure["traced"],
        )
        for figure in workload["reference"]
    ]
    if rows:
        columns = ("published figure", "", "source", "published", "traced")
        print_table(columns, rows, title="Published figures", left=3)
