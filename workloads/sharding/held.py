"""A tensor of a segment as the members of a split hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from workloads.sharding.layout import FULL, Placement, Shard
from workloads.sharding.views import View


class Each(tuple[Any, ...]):
    """What each member has in one place: nodes of their graphs, or arguments."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Held:
    """A tensor of the segment, and the placements in which the members have it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Literal["made", "input", "weight"] = "made"
    name: str = ""  # of an input or a weight
    own: dict[Placement, Each] = field(default_factory=dict)
    source: Held | None = None
    view: View | None = None  # of `source`
    layer: int = -1  # which a view is, where it copies
    preferred: Shard | None = None  # of a sum still to be done: how to cut it

    @property
    def root(self) -> Held:
        """What it is a view of."""
        held = self
        while held.source is not None:
            held = held.source
        return held

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def forms(self) -> list[Placement]:
        """Placements in which it lies, views of the source's included."""
        found = list(self.own)
        if self.source is not None and self.view is not None:
            for placement in self.source.forms():
                through = self.view.forward(placement) if isinstance(placement, Shard) else placement
                if through is not None and through not in found:
                    found.append(through)
        return found

    @property
    def free(self) -> bool:
        """Whether every member has it whole, or can: it is (a view of) a weight, or an input not yet asked for."""
        root = self.root
        return FULL in self.forms() or root.kind == "weight" or (root.kind == "input" and not root.own)
