"""What the members of a split say to each other: the collectives, and a team of threads that runs them.

All collectives are direct: a piece goes from its holder to each member that lacks it, in one step, so that the bytes
that a member sends are the least for the collective (Thakur, Rabenseifner, Gropp 2005, doi 10.1177/1094342005051521).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from workloads.errors import WorkloadError

Result = TypeVar("Result")


class Team(Protocol):
    """The collectives as one member calls them; all members call the same ones in the same order.

    `member` is the caller's number, `members` how many there are. `b` below are the bytes of the whole tensor.
    """

    member: int
    members: int

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the members' pieces, which may differ in length, joined along `dim`. Sends (members - 1) pieces."""
        ...

    def reduce_scatter(self, tensor: Tensor, dim: int) -> Tensor:
        """Return this member's even part along `dim` of the sum of all tensors. Sends (members - 1) b / members."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of all: a reduce_scatter of the flat tensor, filled up to even parts, and an all_gather.

        Sends 2 (members - 1) parts of ceil(elements / members) values.
        """
        ...

    def all_to_all(self, tensor: Tensor, split_dim: int, concat_dim: int) -> Tensor:
        """Cut the tensor evenly along `split_dim`, send part g to member g, join what comes along `concat_dim`."""
        ...

    def halo(self, tensor: Tensor, dim: int, before: int, after: int) -> Tensor:
        """Return the piece with the last `before` indices of the member before and the first `after` of the next.

        The first member has nothing before, the last nothing after. No member holds fewer than it is asked for.
        """
        ...


def sent_bytes(kind: str, elements: int, itemsize: int, members: int) -> int:
    """Bytes that a member sends in a collective of `kind` that it calls on a tensor of so many `elements`.

    `halo` depends on the neighbours: see `halo_bytes`.
    """
    if kind == "all_gather":
        return (members - 1) * elements * itemsize
    if kind in ("reduce_scatter", "all_to_all"):
        return (members - 1) * (elements // members) * itemsize
    if kind == "all_reduce":
        return 2 * (members - 1) * math.ceil(elements / members) * itemsize
    raise WorkloadError(f"there is no collective {kind!r}", "all_gather, reduce_scatter, all_to_all or all_reduce")


def halo_bytes(index_bytes: int, before: int, after: int, member: int, members: int) -> int:
    """Bytes that a member sends in a halo exchange where one index of the dimension takes `index_bytes`."""
    return index_bytes * (before * (member < members - 1) + after * (member > 0))


class ThreadTeam:
    """A member of a team of threads in one process, which counts the bytes that it sends (`sent`, by call)."""

    def __init__(self, member: int, members: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        self.member, self.members = member, members
        self._barrier, self._slots = barrier, slots
        self.sent: list[tuple[str, int]] = []

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        """Return what all members gave."""
        self._slots[self.member] = tensor
        self._barrier.wait()
        given = list(self._slots)
        self._barrier.wait()
        return given

    def _count(self, kind: str, tensor: Tensor) -> None:
        self.sent.append((kind, sent_bytes(kind, tensor.numel(), tensor.element_size(), self.members)))

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """See Team."""
        self._count("all_gather", tensor)
        return torch.cat(self._exchange(tensor), dim)

    def reduce_scatter(self, tensor: Tensor, dim: int) -> Tensor:
        """See Team."""
        self._count("reduce_scatter", tensor)
        parts = [given.tensor_split(self.members, dim)[self.member] for given in self._exchange(tensor)]
        return torch.stack(parts).sum(0)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See Team."""
        self._count("all_reduce", tensor)
        return torch.stack(self._exchange(tensor)).sum(0)

    def all_to_all(self, tensor: Tensor, split_dim: int, concat_dim: int) -> Tensor:
        """See Team."""
        self._count("all_to_all", tensor)
        parts = [given.tensor_split(self.members, split_dim)[self.member] for given in self._exchange(tensor)]
        return torch.cat(parts, concat_dim)

    def halo(self, tensor: Tensor, dim: int, before: int, after: int) -> Tensor:
        """See Team."""
        index = tensor.numel() * tensor.element_size() // tensor.shape[dim]
        self.sent.append(("halo", halo_bytes(index, before, after, self.member, self.members)))
        given = self._exchange(tensor)
        parts = [tensor]
        if self.member > 0 and before:
            left = given[self.member - 1]
            parts.insert(0, left.narrow(dim, left.shape[dim] - before, before))
        if self.member < self.members - 1 and after:
            parts.append(given[self.member + 1].narrow(dim, 0, after))
        return torch.cat(parts, dim)


def run_together(
    members: int, work: Callable[[ThreadTeam], Result]
) -> tuple[list[Result], list[list[tuple[str, int]]]]:
    """Run `work` once for each member of a team, in threads; return what they return, and (kind, bytes) that each sent.

    Raises what the first member raises, after all have stopped.
    """
    barrier, slots = threading.Barrier(members), [None] * members
    teams = [ThreadTeam(member, members, barrier, slots) for member in range(members)]
    results: list[Any] = [None] * members
    failures: list[BaseException] = []

    def run(team: ThreadTeam) -> None:
        try:
            with torch.no_grad():
                results[team.member] = work(team)
        except threading.BrokenBarrierError:
            pass  # another member failed, and says why
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(team,)) for team in teams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results, [team.sent for team in teams]
