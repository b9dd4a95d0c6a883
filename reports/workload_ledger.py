"""How a workload's operators were counted, and published figures beside ours: for its page and for a run's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reports.blocks import Block, Cell, Row, Table, Text, number_cell, text_cell
from reports.format import count, number, percent, prefixed
from reports.records import Workload

COUNTINGS = {
    "fvcore": "counted by fvcore",
    "handle": "counted by an exact rule of ours",
    "estimated": "estimated by a named formula",
    "moved": "moves data only",
    "refused": "refused: not understood",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One operator of the workload, and how it is counted."""

    operator: str
    counting: str
    formula: str
    calls: int
    flops: float
    bytes: float


def ledger_rows(workload: Workload) -> list[LedgerRow]:
    """One row an operator and way of counting, the uncounted first, then by falling work."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for layer in workload.layers:
        groups.setdefault((layer.operator, layer.counting), []).append(layer)
    rows = [
        LedgerRow(
            operator=operator,
            counting=counting,
            formula=", ".join(dict.fromkeys(layer.formula for layer in layers if layer.formula)),
            calls=len(layers),
            flops=sum(layer.flops for layer in layers),
            bytes=sum(layer.bytes for layer in layers),
        )
        for (operator, counting), layers in groups.items()
    ]
    listed = {row.operator for row in rows}
    refused = [
        LedgerRow(operator=operator.name, counting="refused", formula="", calls=operator.count, flops=0.0, bytes=0.0)
        for operator in workload.uncounted_operators
        if operator.name not in listed
    ]
    return refused + sorted(rows, key=lambda row: (row.counting != "refused", -row.flops, -row.bytes, row.operator))


def ledger_blocks(workload: Workload) -> list[Block]:
    """Every operator and how it was counted; what was not is named first."""
    ledger = ledger_rows(workload)
    if not ledger:
        return [Text(text="The workload lists no layers: how operators were counted is unknown.", tone="note")]
    total = sum(row.flops for row in ledger)
    refused = [row for row in ledger if row.counting == "refused"]
    estimated = sum(row.flops for row in ledger if row.counting == "estimated")
    calls = sum(row.calls for row in ledger)
    text = f"{count(calls, 'layer')} of {count(len({row.operator for row in ledger}), 'operator')}"
    text += f" hold {prefixed(total, 'op')} (a multiply-accumulate is two). "
    text += (
        f"{percent(estimated / total if total else 0.0)} of them are estimated by a named formula, the rest is counted."
    )
    views = sum(workload.aliases.values())
    if views:
        text += f" Another {count(views, 'call')} only made views (transposes, slices) and cost nothing."
    blocks: list[Block] = [Text(text=text)]
    if refused:
        names = ", ".join(row.operator for row in refused)
        blocks.append(Text(text=f"Not understood and left out of every figure: {names}.", tone="warning"))
    rows = [
        Row(
            cells=[
                text_cell(row.operator),
                text_cell(COUNTINGS.get(row.counting, row.counting or "not stated")),
                number_cell(number(row.calls), row.calls),
                number_cell(prefixed(row.flops, "op"), row.flops),
                number_cell(percent(row.flops / total if total else 0.0), row.flops),
                number_cell(prefixed(row.bytes, "B"), row.bytes),
                text_cell(row.formula),
            ]
        )
        for row in ledger
    ]
    columns = ["Operator", "How it is counted", "Layers", "Operations", "Share", "Bytes", "Formula"]
    caption = "Coverage ledger: every operator of the traced workload, at the traced precision and batch."
    blocks.append(Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12))
    return blocks


def reference_blocks(workload: Workload) -> list[Block]:
    """Published figures beside ours."""
    if not workload.reference:
        return []
    rows = []
    for figure in workload.reference:
        share = figure.traced / figure.value - 1 if figure.traced is not None and figure.value else None
        difference = "–" if share is None else "equal" if abs(share) < 5e-7 else _signed(share)
        name = figure.quantity.replace("_", " ").replace("macs", "MACs").replace(".", ", ")
        cells = [text_cell(name), _value(figure.value)]
        cells += [_value(figure.traced), text_cell(difference), text_cell(figure.note), text_cell(figure.source)]
        rows.append(Row(cells=cells))
    columns = ["Figure", "Published", "Ours", "Ours is", "Remark", "Source"]
    return [Table(columns=columns, rows=rows, caption="Published reference figures of the workload beside ours.")]


def _signed(share: float) -> str:
    if abs(share) < 0.0005:
        return "equal within 0.05 %"
    return f"{100 * share:+.1f} %".replace("-", "−")


def _value(value: float | None) -> Cell:
    if value is not None and value >= 1e9:
        return number_cell(f"{value / 1e9:,.4g} G", value)
    return number_cell("–" if value is None else f"{value:,.0f}", value)
