"""Model card of a layer proxy: what it was fitted on, under which licences, how, and where it holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import pandas as pd

from dse.proxy.intervals import COVERAGE, Novelty
from dse.proxy.predict import LayerProxy


def described(rows: pd.DataFrame, licences: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the part of a card that tells of the data: rows by source, device, framework, timer and operator kind."""
    columns = ("source", "device", "framework", "timer", "op_type", "dtype")
    counts = {column: rows[column].astype(str).value_counts().sort_index() for column in columns}
    return {
        "data": {column: {str(name): int(count) for name, count in found.items()} for column, found in counts.items()},
        "licences": {source: dict(origin) for source, origin in licences.items() if source in counts["source"]},
    }


def model_card(proxy: LayerProxy, figures: str = "") -> str:
    """Return the card as Markdown; `figures` is a table of measured errors, as `dse proxy evaluate` writes it."""
    card = proxy.card
    lines = ["# Layer proxy: model card", ""]
    lines += [
        f"{len(proxy.models)} networks of {sum(p.numel() for p in proxy.models[0].parameters()):,} numbers, fitted on "
        f"{card['rows_used']:,} of {card['rows']:,} measured operators with seed {card['seed']}.",
        "",
        "Predicts the latency of one operator on one chip from the operator's shapes, the chip's datasheet, and the "
        "framework and timer that it is asked to speak for. More work never takes less time, a higher peak, bandwidth, "
        "vector peak or TDP never more, and no prediction beats physics: by construction, not by training.",
        "",
        "## Data",
        "",
        "| source | rows | repository | licence |",
        "|---|---|---|---|",
    ]
    for source, count in card["data"]["source"].items():
        origin = card["licences"].get(source, {})
        where, licence = origin.get("repository", "measured for the product"), origin.get("licence", "Apache-2.0")
        lines.append(f"| {source} | {count:,} | {where} | {licence} |")
    for column in ("device", "framework", "timer", "op_type", "dtype"):
        lines += ["", f"By {column}: " + ", ".join(f"{name} {count:,}" for name, count in card["data"][column].items())]
    lines += ["", "## Intervals", "", f"Factor either way of the {COVERAGE:.0%} interval, by what is known:", ""]
    lines += ["| operator | " + " | ".join(level.label for level in Novelty) + " |", "|---" * (len(Novelty) + 1) + "|"]
    for kind, widths in zip((*proxy.widths.kinds, "any other"), proxy.widths.table, strict=True):
        lines.append(f"| {kind} | " + " | ".join(f"{exp(width):.2f}" for width in widths) + " |")
    lines += ["", "## Power and memory", ""]
    lines += [
        f"- Power of the board, between idle and TDP: {_told(card['power'])}. Boards differ in sensors and kernels: on "
        "one that was not measured expect two to five times the error. There is no answer where the TDP is not known.",
        f"- Peak memory, at least inputs, weights and outputs: {_told(card['memory'])}. Workspace depends on the "
        "library: for other makers it is those bytes alone.",
    ]
    lines += ["", "## Limits", ""]
    lines += [
        "- Medians of repeats on otherwise idle devices; no contention, no clock throttling, no fusion beyond what the "
        "framework does.",
        "- What lies outside of the data (a maker, an operator kind or a number type; a chip or a layer well beyond "
        "the measured ones) is flagged; its interval is the widest seen when all rows of the rarer makers were left "
        "out, and may not hold.",
        "- A framework that is not known is answered for an average one; versions differ by 20 to 50 % on one chip.",
    ]
    return "\n".join([*lines, "", figures]).rstrip() + "\n"


def _told(head: Mapping[str, Any]) -> str:
    """Say what power or memory was fitted on, or why it was not."""
    if "reason" in head:
        return f"not fitted ({head['reason']})"
    return "fitted on " + ", ".join(f"{count:,} rows of {device}" for device, count in head["rows"].items())
