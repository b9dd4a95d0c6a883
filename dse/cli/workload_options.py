"""The options that `dse workloads NAME` and `dse trace TARGET` share, and the answer that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dse.cli.output import emit_json
from dse.cli.workload_view import SHOWN_LAYERS, SORT_KEYS, show_workload

if TYPE_CHECKING:
    from workloads import WorkloadGraph
    from workloads.run_mode import RunMode


class LayerCount(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of layers, or "all"."""

    name = "number|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number; None of "all"."""
        if value is None or isinstance(value, int):
            return value
        if value == "all":
            return None
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a number of layers nor 'all'", param, ctx)
        return int(value)


class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Seconds of signal, or a range of them."""

    name = "S|FROM:TO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return one length or two."""
        try:
            ends = tuple(float(part) for part in str(value).split(":"))
        except ValueError:
            ends = ()
        if len(ends) not in (1, 2) or not all(0 < end < float("inf") for end in ends) or ends != tuple(sorted(ends)):
            self.fail(f"{value!r} is neither a length such as 30 nor a range such as 1:600", param, ctx)
        return ends


MODE_OPTIONS = (
    click.option(
        "--mode", metavar="MODE", default="inference", show_default=True, help="inference, or train: one step."
    ),
    click.option("--optimizer", metavar="NAME", help="Of the step: sgd, adam (if nothing is said) or adamw."),
    click.option(
        "--recompute",
        metavar="N|PATH,PATH",
        help="Compute activations again in the step's backward pass: of modules N names deep, or of these paths.",
    ),
)
"""What says which work of a model is meant; read by `run_mode_of`."""

OPTIONS = (
    *MODE_OPTIONS,
    click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Examples in a batch."),
    click.option("--precision", metavar="NAME", help="fp32, fp16, bf16, fp8 or int8: same operations, other bytes."),
    click.option("--segments", type=click.IntRange(min=1), metavar="K", help="Cut into K segments of least traffic."),
    click.option(
        "--layers", type=LayerCount(), default=SHOWN_LAYERS, show_default=True, help="Layers to list, or all."
    ),
    click.option(
        "--sort", type=click.Choice(list(SORT_KEYS)), default="program", show_default=True, help="Their order."
    ),
    click.option(
        "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page as well."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
)


def run_mode_of(mode: str, optimizer: str | None, recompute: str | None) -> RunMode:
    """Return what --mode, --optimizer and --recompute say together."""
    from workloads import Training

    if (optimizer, recompute) == (None, None):
        return cast("RunMode", mode)  # checked where it is used
    if mode != "train":
        raise click.UsageError("--optimizer and --recompute are of a training step: give --mode train")
    modules: int | tuple[str, ...] | None = None
    if recompute is not None:
        modules = int(recompute) if recompute.removeprefix("-").isdigit() else tuple(recompute.split(","))
    return Training(optimizer=optimizer or Training().optimizer, recompute=modules)


def workload_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def answer(
    graph: WorkloadGraph,
    workload: dict[str, Any],
    *,
    segments: int | None,
    layers: int | None,
    sort: str,
    html: Path | None,
    as_json: bool,
    growth: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print a workload as tables or as one object, and write its page where asked for."""
    if segments is not None:
        workload["segments"] = describe_segments(graph, segments)
    if growth:
        workload["growth"] = list(growth)
    if html is not None:
        from reports import write_workload

        write_workload(workload, html)
    if as_json:
        emit_json(workload)
        return
    show_workload(workload, layers=layers, sort=sort)
    if html is not None:
        click.echo(f"The page is {html}.")


def describe_segments(graph: WorkloadGraph, count: int) -> dict[str, Any]:
    """Return `count` segments of least cut as JSON types, and what fixed size would cut instead.

    Raises WorkloadError where the graph has fewer layers.
    """
    from workloads import build_segments

    least = build_segments(graph, count=count)
    fixed = build_segments(graph, segment_size=-(-len(graph.layers) // count))
    flops = float(least.flops.sum()) or 1.0

    def summary(cut: Any) -> dict[str, Any]:
        return {
            "segments": [
                {
                    "id": segment.id,
                    "name": segment.name,
                    "layers": len(segment.layer_indices),
                    "flops": segment.flops,
                    "flops_share": segment.flops / flops,
                    "weight_bytes": segment.weight_bytes,
                    "workspace_bytes": segment.workspace_bytes,
                    "traffic_in_bytes": segment.traffic_in_bytes,
                    "traffic_out_bytes": segment.traffic_out_bytes,
                }
                for segment in cut
            ],
            "cut_bytes": float(cut.edge_bytes.sum()),
            "heaviest_share": float(cut.flops.max()) / flops,
        }

    return {"least_cut": summary(least), "fixed_size": summary(fixed)}
