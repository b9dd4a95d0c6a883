"""What the numbers rest on: model, assumptions, datasheets and sources, operator coverage, references, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.blocks import Block, Cell, Fold, Row, Table, Text, number_cell, text_cell
from reports.format import count, number, percent, prefixed
from reports.records import Environment, Statement, Workload
from reports.run import Problem, Run
from reports.section import Section

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisInfo:
    """Everything that this section lists."""

    model: str
    statements: Sequence[Statement]
    workload: Workload | None
    ledger: Sequence[LedgerRow]
    chips: Sequence[Mapping[str, Any]]
    packages: Sequence[Mapping[str, Any]]
    links: Sequence[Mapping[str, Any]]
    environment: Environment | None
    problems: Sequence[Problem]


def basis_info(run: Run) -> BasisInfo:
    """Gather the basis; nothing in it is required."""
    library = run.library
    return BasisInfo(
        model=run.summary.model if run.summary else "",
        statements=library.basis if library else (),
        workload=run.workload,
        ledger=_ledger(run.workload),
        chips=library.chips if library else (),
        packages=library.packages if library else (),
        links=library.links if library else (),
        environment=run.environment,
        problems=run.problems,
    )


def _ledger(workload: Workload | None) -> list[LedgerRow]:
    """One row an operator and way of counting, the uncounted first, then by falling work."""
    if workload is None:
        return []
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


def draw_basis(info: BasisInfo) -> list[Block]:
    """Model, coverage, references, datasheets, environment, damage: in this order."""
    blocks: list[Block] = [
        *_statements(info),
        *_coverage(info),
        *_references(info.workload),
        *_datasheets(info),
        *_machine(info.environment),
        *_damage(info.problems),
    ]
    return blocks


def _statements(info: BasisInfo) -> list[Block]:
    """What latency, energy and cost are computed from, in sentences with their sources."""
    if not info.statements:
        text = f"The layer cost model is {info.model}; " if info.model else ""
        return [Text(text=f"{text}library.json does not say what the figures rest on.", tone="note")]
    rows = [
        Row(cells=[text_cell(item.subject), text_cell(item.statement), text_cell(item.source)])
        for item in info.statements
    ]
    return [Table(columns=["Figure", "How it is computed", "Source"], rows=rows, caption="Models and assumptions.")]


def _coverage(info: BasisInfo) -> list[Block]:
    if not info.ledger:
        return [
            Text(
                text="workload.json is missing or lists no layers: how operators were counted is unknown.", tone="note"
            )
        ]
    total = sum(row.flops for row in info.ledger)
    refused = [row for row in info.ledger if row.counting == "refused"]
    estimated = sum(row.flops for row in info.ledger if row.counting == "estimated")
    calls = sum(row.calls for row in info.ledger)
    text = f"{count(calls, 'layer')} of {count(len({row.operator for row in info.ledger}), 'operator')}"
    text += f" hold {prefixed(total, 'op')} (a multiply-accumulate is two). "
    text += (
        f"{percent(estimated / total if total else 0.0)} of them are estimated by a named formula, the rest is counted."
    )
    views = sum(info.workload.aliases.values()) if info.workload else 0
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
        for row in info.ledger
    ]
    columns = ["Operator", "How it is counted", "Layers", "Operations", "Share", "Bytes", "Formula"]
    caption = "Coverage ledger: every operator of the traced workload, at the traced precision and batch."
    blocks.append(Table(columns=columns, rows=rows, caption=caption, sortable=True, tall=len(rows) > 12))
    return blocks


def _references(workload: Workload | None) -> list[Block]:
    """Published figures beside ours."""
    if workload is None or not workload.reference:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(value: float | None) -> Cell:
    if value is not None and value >= 1e9:
        return number_cell(f"{value / 1e9:,.4g} G", value)
    return number_cell("–" if value is None else f"{value:,.0f}", value)


def _datasheets(info: BasisInfo) -> list[Block]:
    """A fold a datasheet: its figures, which of them are assumed, and where each is from."""
    sheets = [("Chip", sheet) for sheet in info.chips] + [("Package", sheet) for sheet in info.packages]
    sheets += [("Link", sheet) for sheet in info.links]
    if not sheets:
        return [Text(text="library.json is missing or empty: the datasheets are unknown.", tone="note")]
    rows, folds = [], []
    for kind, sheet in sheets:
        assumed = [str(name) for name in sheet.get("assumed") or ()]
        name = str(sheet.get("name", "?"))
        sources = _sources(sheet)
        rows.append(
            Row(
                cells=[
                    text_cell(kind),
                    text_cell(name),
                    text_cell("; ".join(dict.fromkeys(sources.values())) or "no source given"),
                    text_cell(", ".join(assumed) or "none"),
                ]
            )
        )
        fields = [
            Row(
                cells=[
                    text_cell(key),
                    text_cell(_plain(value)),
                    text_cell("assumed" if key in assumed else sources.get(key, sources.get("*", ""))),
                ]
            )
            for key, value in sheet.items()
            if key not in ("name", "source", "assumed", "schema") and value not in (None, "", [], {})
        ]
        table = Table(columns=["Field", "Value", "Source"], rows=fields, caption=f"{kind} {name}, all fields.")
        folds.append(Fold(title=f"{kind} {name}", blocks=(table,)))
    caption = "Datasheets that the study uses, where their figures are from, and which fields are assumptions of ours."
    summary = Table(
        columns=["Kind", "Name", "Source", "Assumed fields"], rows=rows, caption=caption, tall=len(rows) > 12
    )
    return [summary, Fold(title=f"All fields of {count(len(folds), 'datasheet')}", blocks=folds)]


def _sources(sheet: Mapping[str, Any]) -> dict[str, str]:
    source = sheet.get("source")
    if isinstance(source, Mapping):
        return {str(key): str(value) for key, value in source.items()}
    return {"*": str(source)} if source else {}


def _plain(value: Any) -> str:
    """A field's value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(entry) for entry in value)
    if _is_number(value):
        return f"{value:,.6g}" if abs(value) < 1e9 else f"{value:.6g}"
    return str(value)


def _machine(environment: Environment | None) -> list[Block]:
    if environment is None:
        return [Text(text="environment.json is missing: versions, seed and machine are unknown.", tone="note")]
    command = environment.command
    entries: list[tuple[str, str]] = [
        ("command", " ".join(command) if isinstance(command, list) else command or ""),
        ("seed", "" if environment.seed is None else str(environment.seed)),
        ("commit", environment.commit or ""),
        ("started", environment.started or ""),
        *((f"machine: {key}", _plain(value)) for key, value in environment.machine.items()),
        *((f"version of {name}", version) for name, version in environment.versions.items()),
    ]
    rows = [Row(cells=[text_cell(name), text_cell(value)]) for name, value in entries if value]
    caption = "The same study, seed and versions give the same front on one machine, for any number of workers."
    table = Table(columns=["What", "Value"], rows=rows, caption=caption)
    return [Fold(title="Versions, seed and machine", blocks=(table,))]


def _damage(problems: Sequence[Problem]) -> list[Block]:
    if not problems:
        return [Text(text="Every part of the run folder was there and could be read.", tone="note")]
    rows = [Row(cells=[text_cell(p.file), text_cell(p.where), text_cell(p.reason)]) for p in problems]
    caption = "Missing or damaged parts of the run folder. Damaged rows were left out; all others count."
    return [Table(columns=["File", "Where", "What is wrong"], rows=rows, caption=caption, tall=len(rows) > 12)]


SECTION = Section(key="basis", title="What the numbers rest on", order=100, info=basis_info, draw=draw_basis)
