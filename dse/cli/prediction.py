"""What gave the latencies of an answer, in lines for the terminal: model, software, data, what is outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 4  # kinds of layers, or chips, that are named; the others are summed up


def interval_of(ends: Sequence[float] | None, unit: str, prediction: Mapping[str, Any]) -> str:
    """Return " (90 % interval 1.2 to 3.4 ms)"; empty where there is none."""
    if not ends:
        return ""
    return f" ({prediction['coverage']:.0%} interval {ends[0]:.4g} to {ends[1]:.4g} {unit})".replace("%", " %")


def told(prediction: Mapping[str, Any]) -> list[str]:
    """Return lines on the prediction of one design, as dse.prediction.basis and outside describe it."""
    from dse.proxy.model import REASONS

    lines, outside = [source_line(prediction)], prediction["outside"]
    if not outside["cases"]:
        return lines
    lines.append(f"Outside of the data, so that intervals are guesses: {_share(outside['share'])} of the layers' time.")
    cases: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for case in outside["cases"]:
        kinds = ("",) if "chip" in case["reasons"] else (case["kind"], *case["reasons"])
        cases.setdefault((case["chip"], *kinds), []).append(case)
    for (chip, kind, *reasons), members in list(cases.items())[:SHOWN]:
        layers, share = sum(case["layers"] for case in members), sum(case["share"] for case in members)
        what = f"{layers} {kind} layer".replace("  ", " ") + ("s" if layers > 1 else "")
        why = "; ".join(REASONS[reason] for reason in reasons or ["chip"])
        lines.append(f"  {_share(share)}: {what} on {chip}: {why}")
    if rest := [case for members in list(cases.values())[SHOWN:] for case in members]:
        lines.append(f"  {_share(sum(case['share'] for case in rest))}: {len(rest)} further kinds, which --json lists")
    return lines


def told_of_chips(prediction: Mapping[str, Any]) -> list[str]:
    """Return lines on the prediction of a study, as dse.prediction.basis and outside_by_chip describe it."""
    lines, rows = [source_line(prediction)], prediction["outside"]
    strange = dict.fromkeys(row["chip"] for row in rows if "chip" in row["reasons"])
    partly: dict[str, float] = {}
    for row in rows:
        if row["chip"] not in strange:
            partly[row["chip"]] = max(partly.get(row["chip"], 0.0), row["share"])
    if strange:
        lines.append(f"Outside of the data, so that intervals are guesses: {_names(strange)} (makers not measured).")
    if partly:
        shares = [f"{chip} up to {_share(share)}" for chip, share in partly.items()]
        lines.append(f"Partly outside of the data, by share of the layers' time: {_names(shares)}.")
    return lines


def source_line(prediction: Mapping[str, Any]) -> str:
    """Return which model gave the latencies, of a fitted one with its software and data."""
    from dse.prediction import chips_by_software

    text = f"Latencies are of model {prediction['model']}"
    if prediction["data"]:
        by_software = chips_by_software(prediction)
        chips = {f"{software.framework} timed by {software.timer}": on for software, on in by_software.items()}
        names = " and ".join(
            software if len(chips) == 1 else f"{software} ({_names(on)})" for software, on in chips.items()
        )
        text += f", fitted to {sum(prediction['data'].values()):,} measured operators, and hold for {names}"
    if prediction["calibrated"]:
        text += f"; calibrated to measurements of {', '.join(prediction['calibrated'])}"
    return text + "."


def _names(names: Iterable[str]) -> str:
    """Return the first of many names, and how many others there are."""
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} others" if len(every) > SHOWN else "")


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"
