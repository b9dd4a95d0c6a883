"""Words: what networks know names by, an embedding a column of codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

SPREAD = 0.1
"""Standard deviation of a word before training."""


def word_tables(sizes: Sequence[int], width: int) -> nn.ModuleList:
    """Return an embedding for each column of names, drawn; code 0 is a name that is not known."""
    tables = nn.ModuleList(nn.Embedding(size + 1, width, padding_idx=0) for size in sizes)
    draw_words(tables)
    return tables


def draw_words(tables: Iterable[nn.Module]) -> None:
    """Draw the words of embeddings anew, in place: small, and zero for a name that is not known."""
    with torch.no_grad():
        for table in tables:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=SPREAD)
            table.weight[0] = 0.0
