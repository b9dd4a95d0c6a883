"""A team whose members are processes: the collectives of a split segment over the sockets between slots."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dse.mapped_model.exchange import Exchange
from dse.mapped_model.memory import as_bytes, buffer


class SlotTeam:
    """One member of a team (see `workloads.sharding.Team`); `sent` are kind and payload bytes of each call.

    `slots` are the members' processes, in the order of their numbers; `tag` is that of their messages.
    """

    def __init__(self, exchange: Exchange, slots: Sequence[int], member: int, tag: int) -> None:
        self.member, self.members = member, len(slots)
        self.sent: list[tuple[str, int]] = []
        self._exchange, self._slots, self._tag = exchange, slots, tag

    def all_gather(self, tensor: Tensor, dim: int) -> Tensor:
        """See Team."""
        return self._joined("all_gather", [tensor] * self.members, dim)

    def reduce_scatter(self, tensor: Tensor, dim: int) -> Tensor:
        """See Team."""
        mine = list(tensor.tensor_split(self.members, dim))
        return torch.stack(self._each("reduce_scatter", mine, dim)).sum(0).to(tensor.dtype)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See Team."""
        length = math.ceil(tensor.numel() / self.members)
        flat = torch.nn.functional.pad(tensor.reshape(-1), (0, length * self.members - tensor.numel()))
        own = torch.stack(self._each("all_reduce", list(flat.tensor_split(self.members)), 0)).sum(0).to(tensor.dtype)
        whole = torch.cat(self._each("all_reduce", [own] * self.members, 0))
        _, second = self.sent.pop()
        kind, first = self.sent.pop()
        self.sent.append((kind, first + second))
        return whole[: tensor.numel()].reshape(tensor.shape)

    def all_to_all(self, tensor: Tensor, split_dim: int, concat_dim: int) -> Tensor:
        """See Team."""
        return self._joined("all_to_all", list(tensor.tensor_split(self.members, split_dim)), concat_dim)

    def halo(self, tensor: Tensor, dim: int, before: int, after: int) -> Tensor:
        """See Team."""
        start, length = self._exchange.sent_bytes, tensor.shape[dim]
        left, right = self.member > 0, self.member < self.members - 1
        if right and before:
            self._send(self.member + 1, tensor.narrow(dim, length - before, before))
        if left and after:
            self._send(self.member - 1, tensor.narrow(dim, 0, after))
        parts = [tensor]
        if left and before:
            parts.insert(0, self._receive(self.member - 1, tensor.narrow(dim, 0, before), dim))
        if right and after:
            parts.append(self._receive(self.member + 1, tensor.narrow(dim, 0, after), dim))
        self.sent.append(("halo", self._exchange.sent_bytes - start))
        return torch.cat(parts, dim)

    def _joined(self, kind: str, mine: list[Tensor], dim: int) -> Tensor:
        return torch.cat(self._each(kind, mine, dim), dim)

    def _each(self, kind: str, mine: list[Tensor], dim: int) -> list[Tensor]:
        """Give member g `mine[g]`, and return what each gives this one; those may differ in length along `dim`."""
        start = self._exchange.sent_bytes
        for other in range(self.members):
            if other != self.member:
                self._send(other, mine[other])
        own = mine[self.member]
        given = [own if other == self.member else self._receive(other, own, dim) for other in range(self.members)]
        self.sent.append((kind, self._exchange.sent_bytes - start))
        return given

    def _send(self, other: int, tensor: Tensor) -> None:
        payload = buffer(as_bytes(tensor.resolve_conj().resolve_neg()))
        self._exchange.send(self._slots[other], self._tag, payload)

    def _receive(self, other: int, like: Tensor, dim: int) -> Tensor:
        """Return what another member sent: a tensor as this one, of whatever length along `dim`."""
        payload = self._exchange.receive(self._slots[other], self._tag)
        shape = list(like.shape)
        shape[dim] = -1
        if not payload:
            shape[dim] = 0
            return like.new_empty(shape)
        return torch.frombuffer(payload, dtype=like.dtype).reshape(shape)
