"""Run a mapped model in processes, and hold what it answers and sends against the original and the cost table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from dse.errors import DseError
from dse.mapped_model.cut import charged_bytes, cut
from dse.mapped_model.memory import Memory
from dse.mapped_model.model import runnable
from dse.mapped_model.processes import modules_of, started
from dse.mapped_model.team_cut import TeamCut, team_cut
from dse.teams import TeamCosts
from workloads.layer_program import LayerProgram, Read
from workloads.segments import SegmentGraph

TOLERANCE_ULP = 1000
"""Largest difference that counts as equal, in units of the dtype's precision at the largest value of a tensor: 1.2e-4
of it for float32. The operators are the same; kernels may add in another order."""

DEADLINE_S = 600.0

STEPS = ("building the model", "starting its processes", "running the pieces", "running the original")
"""What `run_mapped` does, in order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MappedRun:
    """What a mapped model answered and sent, beside what the original answers and the cost table charges.

    All bytes are those of the traced dtypes (of float32 models those of the segments at 4 bytes a value).
    `charged_bytes` [E] are those of every edge of the segment graph that crosses slots, 0 for the others; `sent_bytes`
    and `received_bytes` [E] were counted at the sockets. Of an edge between modes that share slots what is there
    already counts by how the tensor lies on both; `contract_bytes` are those of a MappingProblem, which takes it for
    even: 1/(G_p G_q) of it for each slot of both. Relative errors are of the largest value of each output.
    """

    name: str
    outputs: tuple[Any, ...]  # flat: tensors, and what else the model returns
    original_outputs: tuple[Any, ...]
    max_abs_error: float
    max_rel_error: float
    tolerance: float  # relative, of the least precise output
    outputs_equal: bool  # within the tolerance; not-a-number where the original has it
    outputs_tell: bool  # some output has more than one value: one that is zero throughout is equal whatever ran
    sent_bytes: NDArray[np.int64]
    received_bytes: NDArray[np.int64]
    charged_bytes: NDArray[np.int64]
    float_bytes: int  # of the traced floating values
    messages: int
    contract_bytes: NDArray[np.float64]  # [E] what a MappingProblem charges each edge
    collective_sent_bytes: NDArray[np.int64]  # [K] within the team of a split segment, all members together
    collective_charged_bytes: NDArray[np.int64]  # [K]
    slots: tuple[int, ...]  # one process each
    given_bytes: NDArray[np.int64]  # [processes] weights, constants and inputs that each process holds
    segment_s: NDArray[np.float64]  # [K] time in the calls of each segment
    wall_s: float  # from the first call to the last answer
    setup_s: float  # starting the processes and giving them their weights
    original_s: float  # of the original, one thread

    @property
    def processes(self) -> int:
        """How many processes ran."""
        return len(self.slots)

    @cached_property
    def bytes_equal(self) -> bool:
        """Whether every edge sent, and received, what it was charged, and every team as well."""
        sent = np.array_equal(self.sent_bytes, self.charged_bytes)
        sent &= np.array_equal(self.collective_sent_bytes, self.collective_charged_bytes)
        return sent and np.array_equal(self.received_bytes, self.charged_bytes)

    @property
    def proven(self) -> bool:
        """Whether outputs, which tell something, and bytes are equal."""
        return self.outputs_equal and self.outputs_tell and self.bytes_equal

    def __str__(self) -> str:
        answer = "equal" if self.outputs_equal else "NOT EQUAL"
        answer += "" if self.outputs_tell else " BUT ALL OF ONE VALUE, which proves nothing: give the model weights,"
        crossing = "equal" if self.bytes_equal else "NOT EQUAL"
        return (
            f"outputs {answer} to the original's (largest relative error {self.max_rel_error:.2g}, tolerance "
            f"{self.tolerance:.2g}); bytes sent and bytes charged {crossing} ({int(self.sent_bytes.sum()):,} and "
            f"{int(self.charged_bytes.sum()):,}{self._collectives}, at the traced {self.float_bytes} bytes a value); "
            f"{self.processes} "
            f"processes, {self.messages} messages, {self.wall_s:.2f} s"
        )

    @property
    def _collectives(self) -> str:
        sent, charged = (int(each.sum()) for each in (self.collective_sent_bytes, self.collective_charged_bytes))
        if not (sent or charged):
            return ""
        problem = round(float(self.contract_bytes.sum()))
        mean = (
            "" if problem == self.charged_bytes.sum() else f" ({problem:,} where teams that share slots count evenly)"
        )
        return f" between segments{mean}, {sent:,} and {charged:,} within teams"

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, for JSON."""
        return {
            "outputs_equal": self.outputs_equal,
            "outputs_tell": self.outputs_tell,
            "max_abs_error": self.max_abs_error,
            "max_rel_error": self.max_rel_error,
            "tolerance": self.tolerance,
            "bytes_equal": self.bytes_equal,
            "sent_bytes": int(self.sent_bytes.sum()),
            "charged_bytes": int(self.charged_bytes.sum()),
            "contract_bytes": float(self.contract_bytes.sum()),
            "collective_sent_bytes": int(self.collective_sent_bytes.sum()),
            "collective_charged_bytes": int(self.collective_charged_bytes.sum()),
            "float_bytes": self.float_bytes,
            "messages": self.messages,
            "processes": self.processes,
            "slots": self.slots,
            "wall_s": self.wall_s,
            "setup_s": self.setup_s,
            "original_s": self.original_s,
        }


def run_mapped(
    workload: str | nn.Module,
    segments: SegmentGraph,
    assignment: ArrayLike,
    *,
    inputs: Sequence[Any] | Tensor | None = None,
    teams: TeamCosts | None = None,
    seed: int = 0,
    deadline_s: float = DEADLINE_S,
    on_progress: Callable[[int, str], None] = lambda done, doing: None,
) -> MappedRun:
    """Cut a model along a mapping, run the pieces as separate processes, and compare with the original.

    Parameters
    ----------
    workload
        Name in the catalogue, `package.module:factory`, a model file, or the module itself.
    segments
        Of a trace of it: `workloads.build_segments(workloads.trace(...))`. Their precision does not matter: the model
        runs in its own.
    assignment
        Slot of each segment [K]. Every slot in use is a process, which holds only the weights that its layers read.
    inputs
        Arguments of forward; drawn from `seed` where a named model is given without.
    teams
        What the modes behind the slots are, where the assignment names some: each of a team's slots runs its member of
        a split segment. Of replicas, which take inputs in turn, the first runs this one input.
    seed
        Of the weights of a named model and of the inputs.
    deadline_s
        Seconds until all processes must have answered.
    on_progress
        Called with how many of STEPS are done, and what is done next.

    Raises
    ------
    WorkloadError
        If the model cannot be built, traced, or run layer by layer.
    DseError
        If the segments are of another model or of a training step, the assignment has not a slot for each, or a
        process fails (with the segment and what it said), ends, or misses the deadline.
    """
    slots = _checked(assignment, segments)
    graph = segments.graph
    on_progress(0, STEPS[0])
    model = runnable(workload, graph, inputs, seed)
    found = _cut(model.program, segments, slots, teams)
    program, pieces = found.program, found.pieces
    operators = {call.operator for call in program.calls}
    begin = time.perf_counter()
    on_progress(1, STEPS[1])
    with started(pieces, deadline_s, modules_of(sorted(operators), model.modules)) as processes:
        processes.load(program)
        setup_s = time.perf_counter() - begin
        on_progress(2, STEPS[2])
        begin = time.perf_counter()
        made, joined, reports = processes.run(program.extents)
        wall_s = time.perf_counter() - begin
    on_progress(3, STEPS[3])
    begin = time.perf_counter()
    original = _alone(graph.name, model.original)
    original_s = time.perf_counter() - begin
    outputs = tuple(_output(program, number, made, joined) for number in range(len(program.outputs)))
    sent, received = np.zeros((2, len(segments.edges)), np.int64)
    segment_s, collectives = np.zeros(len(segments)), np.zeros(len(segments), np.int64)
    for report in reports:
        for edge, nbytes in report.sent.items():
            sent[edge] += nbytes
        for edge, nbytes in report.received.items():
            received[edge] += nbytes
        for segment, seconds in report.segment_s.items():
            segment_s[segment] = max(segment_s[segment], seconds)
        for segment, nbytes in report.collectives.items():
            collectives[segment] += nbytes
    errors = [_error(mine, whole) for mine, whole in zip(outputs, original, strict=True)]
    return MappedRun(
        name=graph.name,
        outputs=outputs,
        original_outputs=tuple(original),
        max_abs_error=max((error.absolute for error in errors), default=0.0),
        max_rel_error=max((error.relative for error in errors), default=0.0),
        tolerance=max((error.tolerance for error in errors), default=0.0),
        outputs_equal=all(error.relative <= error.tolerance for error in errors),
        outputs_tell=any(_tells(whole) for whole in original),
        sent_bytes=sent,
        received_bytes=received,
        charged_bytes=found.laid_bytes,
        contract_bytes=found.contract_bytes,
        collective_sent_bytes=collectives,
        collective_charged_bytes=found.collective_bytes,
        float_bytes=max((layer.float_bytes for layer in graph.layers), default=0),
        messages=sum(report.messages for report in reports),
        slots=tuple(piece.slot for piece in pieces),
        given_bytes=np.array([report.given_bytes for report in sorted(reports, key=lambda report: report.slot)]),
        segment_s=segment_s,
        wall_s=wall_s,
        setup_s=setup_s,
        original_s=original_s,
    )


def _cut(program: LayerProgram, segments: SegmentGraph, modes: NDArray[np.int64], teams: TeamCosts | None) -> TeamCut:
    if teams is not None:
        count = teams.members.shape[1]
        first = [*range(count), *(team.slots[0] for team in teams.teams)]
        if (modes >= len(first)).any():
            raise DseError(f"the assignment names mode {modes.max()}", f"{count} slots and {len(teams.teams)} teams")
        if any(teams.teams[mode - count].way != "replicate" for mode in modes[modes >= count].tolist()):
            return team_cut(program, segments, modes, teams)
        modes = np.array(first)[modes]
    ends = modes[segments.edges]
    charged = np.where(ends[:, 0] != ends[:, 1], charged_bytes(segments), 0)
    return TeamCut(
        program=program,
        pieces=cut(program, segments, modes),
        contract_bytes=charged.astype(np.float64),
        laid_bytes=charged,
        collective_bytes=np.zeros(len(segments), np.int64),
    )


def _checked(assignment: ArrayLike, segments: SegmentGraph) -> NDArray[np.int64]:
    slots = np.asarray(assignment)
    if slots.shape != (len(segments),) or not np.issubdtype(slots.dtype, np.integer) or (slots < 0).any():
        shown = f"{slots.dtype} of shape {slots.shape}"
        raise DseError(f"the assignment is {shown}", f"a slot from 0 on for each of {len(segments)} segments")
    if segments.graph.mode != "inference":
        raise DseError(f"{segments.graph.name} is a training step, which is not run", "the inference of the model")
    return slots.astype(np.int64)


def _alone(name: str, original: Callable[[], list[Any]]) -> list[Any]:
    """Run the original on one thread, as each process does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in original()]
    except Exception as error:  # whatever the model's own code raises
        hint = "it was traced, but not run: check the values of its inputs"
        raise DseError(f"{name} does not run: {type(error).__name__}: {error}", hint) from error
    finally:
        torch.set_num_threads(threads)


def _output(program: LayerProgram, number: int, made: dict[int, Tensor], joined: Memory) -> Any:
    """Return an output that processes made, or one that no layer made: an input, a weight, a number."""
    known = program.outputs[number]
    if number in made or not isinstance(known, Read):
        return made.get(number, known)
    if known.producer is not None:
        return joined.tensor(known.view).clone()
    storage = known.view.storage
    memory = Memory({storage: (0, program.extents[storage])})
    memory.put(program.base[storage], program.given[storage])
    return memory.tensor(known.view)


def _tells(output: Any) -> bool:
    return isinstance(output, Tensor) and (output.numel() == 1 or bool((output != output.flatten()[:1]).any()))


@dataclass(frozen=True, slots=True)
class _Error:
    absolute: float
    relative: float
    tolerance: float


def _error(mine: Any, whole: Any) -> _Error:
    """Return the largest difference of an output; infinite where shape, dtype or what is not finite differs."""
    if not isinstance(whole, Tensor) or not isinstance(mine, Tensor):
        same = type(mine) is type(whole) and mine == whole
        return _Error(0.0, 0.0, 0.0) if same else _Error(np.inf, np.inf, 0.0)
    if mine.shape != whole.shape or mine.dtype != whole.dtype:
        return _Error(np.inf, np.inf, 0.0)
    floating = mine.is_floating_point() or mine.is_complex()
    tolerance = TOLERANCE_ULP * torch.finfo(mine.dtype).eps if floating else 0.0
    wide = torch.complex128 if mine.is_complex() else torch.float64
    a, b = mine.to(wide), whole.to(wide)
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return _Error(np.inf, np.inf, tolerance)
    difference = (a - b)[finite].abs()
    if not difference.numel():
        return _Error(0.0, 0.0, tolerance)
    absolute, largest = float(difference.max()), float(b[finite].abs().max())
    return _Error(absolute, absolute / largest if largest else (np.inf if absolute else 0.0), tolerance)
