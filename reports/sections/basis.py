"""What the numbers rest on: model, assumptions, datasheets and their sources, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.blocks import Block, Fold, Row, Table, Text, text_cell
from reports.format import count
from reports.records import Environment, Statement
from reports.run import Problem, Run
from reports.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisInfo:
    """Everything that this section lists."""

    model: str
    statements: Sequence[Statement]
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
        chips=library.chips if library else (),
        packages=library.packages if library else (),
        links=library.links if library else (),
        environment=run.environment,
        problems=run.problems,
    )


def draw_basis(info: BasisInfo) -> list[Block]:
    """Model, datasheets, environment, damage: in this order."""
    blocks: list[Block] = [
        *_statements(info),
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
