"""Split segments in the processes of their teams: answers as the original, and the bytes that the table charges."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import chiplib
from dse.boundaries import Laid, even_pieces, moved, share_moved
from dse.cost_table import CostTable, cost_table
from dse.errors import DseError
from dse.mapped_model import Exchange, MappedRun, run_mapped
from dse.mapped_model.memory import Memory, Part
from dse.mapped_model.model import runnable
from dse.mapped_model.regions import Region
from dse.mapped_model.slot_team import SlotTeam
from dse.mapped_model.team_cut import team_cut
from dse.teams import TeamCosts, split_teams
from tests.dse.mapped_model_help import segmented
from tests.workloads.test_sharding import SMALL
from workloads.layer_program import View
from workloads.sharding import run_together

SLOTS = 4


def costed(module: nn.Module, inputs: tuple[Any, ...], size: int, **how: Any) -> tuple[CostTable, TeamCosts]:
    segments = segmented(module, inputs, size)
    system = chiplib.System.build(
        package="interposer_2x2", chips=["big_core"] * SLOTS, library=chiplib.load_library("chiplets")
    )
    table = cost_table(segments, system, model="roofline", precision="fp32")
    return table, split_teams(module, table, inputs=inputs, **how)


def random_modes(teams: TeamCosts, segments: int, seed: int) -> np.ndarray:
    """A team of two and one of four by turns where a segment is split, else a slot."""
    rng = np.random.default_rng(seed)
    modes, wanted = [], 2
    for k in range(segments):
        split = [t for t in range(len(teams.teams)) if (k, t) in teams.splits]
        split = [t for t in split if teams.teams[t].size == wanted] or split
        modes.append(SLOTS + rng.choice(split) if split else rng.integers(SLOTS))
        wanted = 6 - wanted if split else wanted
    return np.array(modes)


def proven(module: nn.Module, inputs: tuple[Any, ...], table: CostTable, teams: TeamCosts, modes: Any) -> MappedRun:
    """Run, and check outputs, the bytes of every edge and team, and that edges are charged what the problem does."""
    run = run_mapped(module, table.segments, modes, inputs=inputs, teams=teams)
    assert run.outputs_equal, str(run)
    assert run.sent_bytes.tolist() == run.received_bytes.tolist() == run.charged_bytes.tolist()
    assert run.collective_sent_bytes.tolist() == run.collective_charged_bytes.tolist()
    assert run.proven
    for k, mode in enumerate(modes):
        if (k, mode - SLOTS) in teams.splits:
            assert run.collective_charged_bytes[k] == teams.sent_within(k, mode - SLOTS, 4).sum()
        else:
            assert not run.collective_sent_bytes[k]
    problem = table.mapping_problem(teams=teams)
    used = problem.members[modes]
    for edge, (u, v) in enumerate(table.segments.edges.tolist()):
        if modes[u] == modes[v]:
            assert not run.sent_bytes[edge]
        elif not (used[u] & used[v]).any():
            assert run.sent_bytes[edge] == table.segments.edge_bytes[edge]
    return run


@pytest.mark.parametrize("family", SMALL)
def test_a_family_over_slots_and_teams(family: str) -> None:
    torch.manual_seed(0)
    build, shapes, size = SMALL[family]
    module, inputs = build().eval(), tuple(torch.randn(shape) for shape in shapes)
    number = len(segmented(module, inputs, size))
    some = np.random.default_rng(1).permutation(number)[:4]
    table, teams = costed(module, inputs, size, sizes=(2, 4), only=some.tolist(), permute_seed=3)
    modes = random_modes(teams, number, seed=1)
    run = proven(module, inputs, table, teams, modes)
    assert {teams.teams[mode - SLOTS].size for mode in modes if mode >= SLOTS} == {2, 4}
    assert run.collective_sent_bytes.any()


class Even(nn.Module):
    """Sizes that four slots divide, whatever is cut: what edges are charged is exact also where modes share slots."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(16, 32, 1), nn.Conv1d(32, 16, 1)
        self.third = nn.Conv1d(16, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x).relu()).relu()).tanh()


def test_edges_are_charged_by_the_share_that_is_not_there_already() -> None:
    """A slot and a team that it is in, either way round."""
    torch.manual_seed(0)
    module, inputs = Even().eval(), (torch.randn(1, 16, 8),)
    table, teams = costed(module, inputs, 1, sizes=(2, 4))
    numbers = [t for t in range(len(teams.teams)) if (2, t) in teams.splits]
    for t in numbers:
        alone = teams.teams[t].slots[0]
        modes = np.full(len(table.segments), alone)
        modes[2] = SLOTS + t
        run = proven(module, inputs, table, teams, modes)
        problem = table.mapping_problem(teams=teams)
        share = 1 - 1 / teams.teams[t].size
        into, out = (table.segments.edges[:, 1] == 2), (table.segments.edges[:, 0] == 2)
        assert (run.sent_bytes[into | out] == share * problem.edge_bytes[into | out]).all()
        assert run.sent_bytes.tolist() == run.contract_bytes.tolist()
        assert not run.sent_bytes[~(into | out)].any()
    assert len(numbers) >= 4


def test_permuted_channels_are_put_back_where_they_are_read() -> None:
    torch.manual_seed(0)
    module, inputs = Even().eval(), (torch.randn(1, 16, 8),)
    table, teams = costed(module, inputs, 2, sizes=(2,), permute_seed=5)
    (t,) = [t for t, team in enumerate(teams.teams) if team.way == "channels" and team.slots == (0, 1)]
    split = teams.splits[0, t]
    (entry,) = split.rewire_meta
    assert entry["perm"].tolist() != sorted(entry["perm"].tolist())
    modes = np.array([SLOTS + t, 3, 2][: len(table.segments)])
    proven(module, inputs, table, teams, modes)
    modes[-1] = SLOTS + t  # the model's answer comes in pieces
    proven(module, inputs, table, teams, modes)
    modes[-1] = 0
    wrong = replace(split, outputs=tuple(replace(each, perm=np.roll(each.perm, 1)) for each in split.outputs))
    mistaken = replace(teams, splits=teams.splits | {(0, t): wrong})
    assert not run_mapped(module, table.segments, modes, inputs=inputs, teams=mistaken).outputs_equal


def test_members_of_a_program_from_the_meta_device_run_on_the_processor() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).relu() + torch.arange(x.shape[-1], device=x.device))

    module, inputs = Positions().eval(), (torch.randn(1, 4, 8),)
    table, _ = costed(module, inputs, 3, sizes=(2,), only=[])
    meta = tuple(tensor.to("meta") for tensor in inputs)
    teams = split_teams(deepcopy(module).to("meta"), table, sizes=(2,), inputs=meta)
    (first, *_) = [t for t in range(len(teams.teams)) if (0, t) in teams.splits]
    modes = np.full(len(table.segments), 3)
    modes[0] = SLOTS + first
    proven(module, inputs, table, teams, modes)


def test_of_replicas_the_first_runs_this_input() -> None:
    module, inputs = Even().eval(), (torch.randn(1, 16, 8),)
    table, teams = costed(module, inputs, 1, sizes=(2,), replicate=True)
    (t,) = [t for t, team in enumerate(teams.teams) if team.way == "replicate" and team.slots == (2, 3)]
    modes = np.zeros(len(table.segments), np.int64)
    modes[1] = SLOTS + t
    run = run_mapped(module, table.segments, modes, inputs=inputs, teams=teams)
    assert run.proven
    assert run.slots == (0, 2)
    assert run.sent_bytes.sum() == table.segments.edge_bytes.sum() - table.segments.edge_bytes[2:].sum()


def test_wrong_modes_and_sizes_are_refused() -> None:
    module, inputs = Even().eval(), (torch.randn(1, 16, 8),)
    table, teams = costed(module, inputs, 1, sizes=(2,), only=[0])
    modes = np.zeros(len(table.segments), np.int64)
    modes[1] = SLOTS
    with pytest.raises(DseError, match="not split by channels over slots 0, 1"):
        run_mapped(module, table.segments, modes, inputs=inputs, teams=teams)
    modes[1] = SLOTS + len(teams.teams)
    with pytest.raises(DseError, match="names mode"):
        run_mapped(module, table.segments, modes, inputs=inputs, teams=teams)
    for sizes in ((8,), (2, 3), (1,)):
        with pytest.raises(DseError, match="team"):
            split_teams(module, table, sizes=sizes, inputs=inputs)


# --- collectives and boundaries --------------------------------------------------------------------------------------


def together(members: int, folder: Path, work: Callable[[Any], Any]) -> tuple[list[Any], list[list[tuple[str, int]]]]:
    """Run a team of exchanges, in threads."""
    exchanges = [Exchange(folder, number) for number in range(members)]
    teams = [SlotTeam(exchange, range(members), g, 7) for g, exchange in enumerate(exchanges)]
    made: list[Any] = [None] * members

    def run(g: int) -> None:
        made[g] = work(teams[g])

    threads = [threading.Thread(target=run, args=(g,)) for g in range(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for exchange in exchanges:
        exchange.close()
    return made, [team.sent for team in teams]


@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex64])
def test_collectives_over_sockets_are_those_of_the_team_of_threads(
    members: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    def work(team: Any) -> list[torch.Tensor]:
        torch_seeded = torch.Generator().manual_seed(team.member)
        x = torch.randint(0, 99, (members * 2, members, 5), generator=torch_seeded).to(dtype)
        uneven = x[:, : team.member + 1 if team.member else 0]
        return [
            team.all_gather(uneven, 1),
            team.reduce_scatter(x, 0),
            team.all_reduce(x[:, :, :3]),
            team.all_to_all(x, 0, 2),
            team.halo(x, 0, 2, 1),
            team.halo(x, 2, 0, 3),
            team.all_gather(x.transpose(0, 2), 0),
        ]

    made, sent = together(members, tmp_path, work)
    expected, counted = run_together(members, work)
    assert sent == counted
    for mine, theirs in zip(made, expected, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@st.composite
def lying(draw: st.DrawFn, shape: tuple[int, ...], members: int) -> Laid:
    """Any cut of a tensor along a dimension, in any order; or even pieces of it."""
    if draw(st.booleans()):
        return even_pieces(shape, members)
    dim = draw(st.integers(0, len(shape) - 1))
    owner = np.array(draw(st.lists(st.integers(0, members - 1), min_size=shape[dim], max_size=shape[dim])))
    order = np.array(draw(st.permutations(range(shape[dim]))))
    return Laid(shape=shape, dim=dim, pieces=tuple(order[owner[order] == g] for g in range(members)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_members_get_what_they_want_from_those_that_hold_it(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    ours, theirs = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    source, target = data.draw(lying(shape, ours)), data.draw(lying(shape, theirs))
    numbers = np.arange(np.prod(shape)).reshape(shape)

    def elements(picks: dict[int, np.ndarray] | None) -> list[int]:
        if picks is None:
            return []
        found = numbers
        for dim, indices in picks.items():
            found = found.take(indices, axis=dim)
        return sorted(found.ravel().tolist())

    for j in range(theirs):
        got = [elements(moved(source, i, target, j)) for i in range(ours)]
        assert sorted(chain.from_iterable(got)) == elements(target.picks(j))
        for i in range(ours):
            assert set(got[i]) <= set(elements(source.picks(i)))
            assert len(got[i]) == pytest.approx(share_moved(source, i, target, j) * numbers.size)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
@settings(deadline=None)
def test_a_piece_is_put_where_it_was_taken_from(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Gather from one memory, scatter into another: what numpy does by the same indices, channels in another order."""
    stride = tuple(int(np.prod(shape[d + 1 :])) for d in range(len(shape)))
    base = View(0, torch.float32, shape, stride, 0)
    dims = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True, max_size=2))
    picks = {
        d: np.array(data.draw(st.lists(st.integers(0, shape[d] - 1), unique=True, min_size=1))).astype(np.int64)
        for d in dims
    }
    permuted = data.draw(st.sampled_from([None, *range(len(shape))]))
    order = None if permuted is None else np.array(data.draw(st.permutations(range(shape[permuted])))).astype(np.int64)
    view = View(0, torch.float32, (1,), (1,), base.end // 4 - 1)
    part = data.draw(st.sampled_from([None, Part(base, base), Part(view, base, rest=True)]))
    perm = None if permuted is None or order is None else (permuted, order)
    region = Region(base=base, picks=picks, part=part, perm=perm)
    source, target = np.arange(1.0, 1 + np.prod(shape), dtype=np.float32).reshape(shape), np.zeros(shape, np.float32)
    memories = [Memory({0: (0, base.end)}) for _ in range(2)]
    for memory, content in zip(memories, (source, target), strict=True):
        memory.load(0, bytearray(content.tobytes()))
    region.scatter(memories[1], region.gather(memories[0]))
    expected = target.copy()
    handed = expected if perm is None else expected.take(perm[1], perm[0])
    given_on = source if perm is None else source.take(perm[1], perm[0])
    where = np.ix_(*(picks.get(d, np.arange(size)) for d, size in enumerate(shape)))
    handed[where] = given_on[where]
    if perm is not None:
        handed = handed.take(np.argsort(perm[1]), perm[0])
    if part is not None and part.rest:
        handed.reshape(-1)[-1] = 0.0  # the last element is not in the part
    assert np.array_equal(memories[1].tensor(base).numpy(), handed)


def test_a_piece_is_put_in_its_place_with_no_more_memory_than_the_tensor_has() -> None:
    class Largest(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.nbytes = max(self.nbytes, made.nbytes)
            return made

    base = View(0, torch.float32, (64, 32), (32, 1), 0)
    memory = Memory({0: (0, base.end)})
    for picks in ({0: np.arange(16)}, {0: np.arange(16), 1: np.arange(1, 9)}, {}):
        region = Region(base=base, picks=picks)
        content = region.gather(memory)
        with Largest() as seen:
            region.scatter(memory, content)
        assert 0 < seen.nbytes <= base.end


def test_a_process_frees_each_tensor_after_its_last_use_inside_of_whole_segments_too() -> None:
    module = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.Tanh())))
    inputs = (torch.randn(8, 64),)
    table, teams = costed(module, inputs, 4, sizes=(2,))
    modes = np.array([0, SLOTS, 0])  # whole, split, whole
    proven(module, inputs, table, teams, modes)
    model = runnable(module, table.segments.graph, inputs, 0)
    made = team_cut(model.program, table.segments, modes, teams)
    for piece in made.pieces:
        uses = [
            (s, c, {view.storage for view in (*(read.view for read in call.reads), *call.writes, *call.outputs)})
            for s, step in enumerate(piece.steps)
            for c, call in enumerate(step.calls)
        ]
        freed = [(s, c, each) for s, step in enumerate(piece.steps) for c, now in enumerate(step.frees) for each in now]
        assert len({storage for *_, storage in freed}) == len(freed)
        for s, c, storage in freed:
            assert max(((us, uc) for us, uc, used in uses if storage in used), default=(s, c)) <= (s, c)
    whole = next(piece for piece in made.pieces if piece.slot == 0).steps[0]
    assert sum(map(len, whole.frees[:-1])) >= len(whole.calls) - 1  # not all at the end of the segment
