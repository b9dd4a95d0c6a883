"""The answer in sentences: what was swept, what is proven, what is recommended, what limits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.analysis import best, busiest, interval_label, same, segment_shares, timed_metric, trust
from reports.blocks import Block, Cell, Fact, Facts, Row, Table, Text, number_cell, text_cell
from reports.format import (
    count,
    design_text,
    listed,
    metric,
    metric_label,
    metric_range,
    number,
    percent,
    prefixed,
)
from reports.records import Detail, FrontPoint, Summary, Workload
from reports.run import Run
from reports.section import NotApplicable, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryInfo:
    """The figures in words, and the points that the knee is compared with."""

    facts: Sequence[Fact]
    sentences: Sequence[str]
    compared: Sequence[tuple[str, FrontPoint]]  # role, point; the knee first
    metrics: Sequence[str]
    timed: str  # the metric whose intervals are shown; empty where there is none


WORDS = {"latency_ms": "latency", "throughput_per_s": "throughput", "energy_mj": "energy", "cost_usd": "cost"}


def _roles(summary: Summary) -> tuple[tuple[str, str], ...]:
    """The ends of the front: of a stream the fastest is the one of highest throughput."""
    fastest = "throughput_per_s" if summary.regime == "pipelined" else "latency_ms"
    return ("Fastest", fastest), ("Most frugal", "energy_mj"), ("Cheapest", "cost_usd")


def summary_info(run: Run) -> SummaryInfo:
    """Say what the run found."""
    summary = run.summary
    if summary is None:
        done = sum(row.status == "ok" for row in run.rows)
        raise NotApplicable(
            f"summary.json is missing or damaged. The result files hold {count(len(run.rows), 'design')}, "
            f"{number(done)} of them mapped. Continue the run with `dse run` to get a summary."
        )
    knee = run.knee
    compared: list[tuple[str, FrontPoint]] = [("Knee", knee)] if knee is not None else []
    for role, name in _roles(summary):
        point = best(summary.front, name)
        if point is None:
            continue
        known = next((index for index, (_, other) in enumerate(compared) if same(point, other)), None)
        if known is None:
            compared.append((role, point))
        else:
            compared[known] = (f"{compared[known][0]}, {role.lower()}", compared[known][1])
    ends = [name for _, name in _roles(summary)]  # in the serial regime throughput is 1 / latency: not shown
    shown = dict.fromkeys([*summary.objectives, *ends, "latency_ms", "area_mm2"])
    sentences = [_swept(summary, run.workload), _accounted(summary), _proven(summary), _front(summary)]
    if knee is not None:
        sentences += [_recommended(knee, summary), _against(knee, summary)]
    if run.knee_detail is not None:
        sentences.append(_bottleneck(run.knee_detail, run.workload, summary.regime))
        sentences.append(trust(run.knee_detail.prediction))
    return SummaryInfo(
        facts=_facts(summary),
        sentences=[sentence for sentence in sentences if sentence],
        compared=compared,
        metrics=[name for name in shown if any(name in point.metrics for _, point in compared)],
        timed=timed_metric(summary),
    )


def _facts(summary: Summary) -> list[Fact]:
    proven = summary.epsilon is not None
    return [
        Fact(label="Designs in the space", value=number(summary.designs)),
        Fact(label="Mapped and simulated", value=number(summary.evaluated)),
        Fact(label="Cannot be mapped", value=number(summary.infeasible)),
        Fact(label="Open", value=number(summary.open_unmapped), note="neither mapped nor ruled out"),
        Fact(label="Points on the front", value=number(len(summary.front))),
        Fact(
            label="Proven epsilon",
            value=percent(summary.epsilon) if proven else "none",
            note="over all designs" if proven else "nothing is proven",
        ),
    ]


def _swept(summary: Summary, workload: Workload | None) -> str:
    size = ""
    if workload is not None:
        parts = [
            f"{prefixed(workload.parameters, '').rstrip()} parameters" if workload.parameters else "",
            prefixed(workload.macs, "MACs") if workload.macs else "",
            count(len(workload.segments), "segment") if workload.segments else "",
        ]
        size = ", ".join(part for part in parts if part)
    what = f"the workload {summary.workload}" if summary.workload else "its workload"
    regime = {
        "serial": "one input at a time (serial regime)",
        "pipelined": "a stream of inputs (pipelined regime)",
    }.get(summary.regime, f"the {summary.regime} regime" if summary.regime else "")
    objectives = listed([metric_label(name, unit=False).lower() for name in summary.objectives])
    text = f"The study {summary.study} swept {count(summary.designs, 'design')} for {what}"
    text += f" ({size})" if size else ""
    text += f" with {regime}" if regime else ""
    text += f", weighing {objectives}" if objectives else ""
    return text + (f", in {number(summary.wall_s)} s." if summary.wall_s is not None else ".")


def _accounted(summary: Summary) -> str:
    text = f"{count(summary.evaluated, 'design was', 'designs were')} mapped and simulated"
    if summary.failed:
        text += f" ({number(summary.failed)} of them failed)"
    text += f", {number(summary.infeasible)} cannot be mapped" if summary.infeasible is not None else ""
    if summary.open_unmapped is not None:
        open_ = number(summary.open_unmapped) if summary.open_unmapped else "none"
        text += f", and {open_} {'are' if (summary.open_unmapped or 0) > 1 else 'is'} still open"
    if summary.ruled_out:
        text += f"; lower bounds alone ruled out the other {number(summary.ruled_out)}"
    return text + "."


def _proven(summary: Summary) -> str:
    basis = f" Basis: {summary.epsilon_basis.rstrip('.')}." if summary.epsilon_basis else ""
    if summary.epsilon is None:
        return (
            "Nothing is proven about designs beyond those simulated: the front is the best that this search found, "
            "and a better design may exist in the space." + basis
        )
    if summary.epsilon == 0:
        return "Proven: no design of the space, mapped in any way, improves on this front." + basis
    return (
        f"Proven: whatever design of the space is chosen, and however it is mapped, some point of this front is within "
        f"{percent(summary.epsilon, 3)} of it in every objective." + basis
    )


def _front(summary: Summary) -> str:
    text = f"The front has {count(len(summary.front), 'point')}"
    if summary.hypervolume is not None:
        text += f" and a hypervolume of {number(summary.hypervolume, 4)}"
        if summary.reference_point and len(summary.reference_point) == len(summary.objectives):
            pairs = zip(summary.objectives, summary.reference_point, strict=True)
            text += f" against the reference point {', '.join(metric(name, value) for name, value in pairs)}"
    return text + "."


def _recommended(knee: FrontPoint, summary: Summary) -> str:
    ends = [name for _, name in _roles(summary)]
    names = dict.fromkeys([ends[0], "latency_ms", *ends[1:], "area_mm2"])
    parts = [
        f"{metric(name, knee.metrics[name])}{' latency' if name == 'latency_ms' != ends[0] else ''}"
        for name in names
        if name in knee.metrics
    ]
    return (
        f"Recommended is the knee of the front, design {knee.design}: {design_text(knee.params)}; {', '.join(parts)}."
    )


def _against(knee: FrontPoint, summary: Summary) -> str:
    roles = _roles(summary)
    clauses = []
    for role, name in roles:
        other = best(summary.front, name)
        if other is None or name not in knee.metrics:
            continue
        if same(other, knee):
            clauses.append(f"it is itself the {role.lower()}")
            continue
        terms = []
        for key in dict.fromkeys([name, *(end for _, end in roles)]):
            mine, theirs = knee.metrics.get(key), other.metrics.get(key)
            if mine is None or not theirs:
                continue
            terms.append(f"{_difference(mine / theirs)} {WORDS[key]}")
        if terms:
            clauses.append(f"against the {role.lower()} it has {', '.join(terms)}")
    return f"{'; '.join(clauses)[:1].upper()}{'; '.join(clauses)[1:]}." if clauses else ""


def _difference(ratio: float) -> str:
    if ratio >= 2:
        return f"{number(ratio, 2)} times the"
    if abs(ratio - 1) < 0.005:
        return "the same"
    return f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'}"


def _bottleneck(detail: Detail, workload: Workload | None, regime: str) -> str:
    shares = segment_shares(detail, workload)
    resource = busiest(detail)
    if not shares or resource is None:
        return ""
    top = shares[0]
    by_bound: dict[str, float] = {}
    for entry in shares:
        by_bound[entry.segment.bound] = by_bound.get(entry.segment.bound, 0.0) + entry.share
    bound, share = max(by_bound.items(), key=lambda item: item[1])
    what = {"memory": "memory bandwidth", "compute": "matrix throughput", "vector": "vector throughput"}.get(
        bound, bound
    )
    what = "the time that it takes to start layers" if bound == "launch" else what
    text = f"Its bottleneck: {what} binds {percent(share)} of the compute time" if what else "Its bottleneck:"
    text += f"; the slowest segment is {top.segment.id} ({top.segment.name or 'unnamed'}) on slot {top.segment.slot}"
    text += f" with {percent(top.share)} of it"
    text += f"; the busiest resource is {resource.name}, {percent(resource.utilisation)} of the time"
    if regime == "pipelined":
        text += ", which sets the throughput"
    return text + "."


def draw_summary(info: SummaryInfo) -> list[Block]:
    """Facts, sentences, and the comparison table."""
    blocks: list[Block] = [Facts(facts=info.facts)]
    blocks += [Text(text=sentence, tone="lead" if i == 0 else "plain") for i, sentence in enumerate(info.sentences)]
    if info.compared:
        columns = ["", "Design"]
        for name in info.metrics:
            columns += [metric_label(name)] + ([interval_label(name)] if name == info.timed else [])
        rows = []
        for role, point in info.compared:
            cells: list[Cell] = [text_cell(role), text_cell(design_text(point.params), title=f"design {point.design}")]
            for name in info.metrics:
                value = point.metrics.get(name)
                cells.append(number_cell(metric(name, value, unit=False), value))
                if name == info.timed:
                    ends = point.intervals.get(name)
                    cells.append(number_cell(metric_range(name, ends), ends[1] if ends else None))
            rows.append(Row(cells=cells))
        blocks.append(Table(columns=columns, rows=rows, caption="The recommended design and the ends of the front."))
    return blocks


SECTION = Section(key="summary", title="Summary", order=10, info=summary_info, draw=draw_summary)
