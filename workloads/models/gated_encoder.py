"""A transformer encoder over clip tokens whose tokens, heads, channels and blocks can be gated, and so pruned.

Pre-norm blocks (Dosovitskiy et al. 2020, arXiv 2010.11929) with dropout and stochastic depth (Huang et al. 2016,
arXiv 1603.09382). A gate of 1 changes nothing; a gate of 0 gives what the network gives without the token, head,
channel or block. For tokens that takes more than scaling features by the gate, which norm, keys and mean pool undo: a
gate is added as its logarithm to the attention's scores of that key, and weighs the token in the mean that is pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.vit import EncoderBlock, SelfAttention

Slices = Mapping[str, tuple[int, int]]
"""Of each modality, which of a frame's tokens are its own: first and end."""

SMALLEST_GATE = 1e-30
"""Added to token gates under the logarithm: a token gated by 0 keeps 1e-30 of its weight, below rounding, and so the
finite gradient by which it can come back, where log 0 has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What is kept, each in [0, 1], 0 or 1 when hard; None keeps everything."""

    token: Tensor | None = None  # [B or 1, T, N, 1]
    head: Tensor | None = None  # [depth, heads]
    channel: Tensor | None = None  # [depth, hidden channels of the feed-forward]
    block: Tensor | None = None  # [depth]

    def sparsity(self) -> dict[str, Tensor]:
        """Share that is gated away of each kind, in the names of the specification's `ast_stats`."""
        named = {"token": self.token, "head": self.head, "ch": self.channel, "block": self.block}
        return {f"sparsity_{kind}": _sparsity(gate) for kind, gate in named.items()}


def _sparsity(gate: Tensor | None) -> Tensor:
    return torch.zeros(()) if gate is None else 1 - gate.mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruner says of its decision."""

    sparsity: Mapping[str, Tensor]
    modal_stats: Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A clip encoded: `pooled` [B, C], normed tokens `token_feat` [B, T, N, C], and the gates that acted."""

    pooled: Tensor
    token_feat: Tensor
    gates: Gates
    pruned: Pruned | None = None


class Pruner(Protocol):
    """What decides the gates, an nn.Module that the model owns and trains with; the specification's ASTPruner.

    Gates are those of `Gates`, sparsity is a scalar 1 - mean(gate).
    """

    def forward_token_gating(
        self, token_feat: Tensor, modality_slices: Slices | None = None
    ) -> tuple[Tensor, Tensor, Mapping[str, Mapping[str, Tensor]]]:
        """Token gate [B, T, N, 1] of features [B, T, N, C], its sparsity, and statistics of each modality."""

    def forward_head_gating(self) -> tuple[Tensor, Tensor]:
        """Head gate [depth, heads] and its sparsity."""

    def forward_channel_gating(self) -> tuple[Tensor, Tensor]:
        """Channel gate [depth, hidden] and its sparsity."""

    def forward_block_gating(self) -> tuple[Tensor, Tensor]:
        """Block gate [depth] and its sparsity."""

    def compute_L_AST(
        self, sparsity_token: Tensor, sparsity_head: Tensor, sparsity_ch: Tensor, sparsity_block: Tensor
    ) -> Tensor:
        """The regulariser: the four sparsities weighted, a scalar."""


PrunerFactory = Callable[..., Pruner]
"""Called with `cfg` (the ast_cfg, sizes filled in), embed_dim, num_heads, depth and num_patches (tokens a frame)."""


def require_positive(**sizes: int) -> None:
    """Raise WorkloadError naming the first of these sizes that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise WorkloadError(f"{name} is {size}", "1 or more")


class GatedAttention(SelfAttention):
    """Self-attention with dropout of its weights that takes a bias of keys and gates of heads."""

    def __init__(self, dim: int, heads: int, *, drop: float = 0.0) -> None:
        super().__init__(dim, heads)
        self.drop = drop

    def forward(self, x: Tensor, bias: Tensor | None = None, head: Tensor | None = None) -> Tensor:
        """[B, S, dim] to the same; `bias` [B or 1, 1, 1, S] is added to the scores of the keys."""
        batch, tokens, dim = x.shape
        qkv: Tensor = self.qkv(x)
        query, key, value = qkv.view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, bias, self.drop if self.training else 0.0)
        if head is not None:
            mixed = mixed * head[:, None, None]
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class GatedBlock(EncoderBlock):
    """An encoder block with dropout and stochastic depth that takes gates."""

    def __init__(
        self, dim: int, heads: int, hidden: int, *, drop: float = 0.0, attn_drop: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__(dim, heads, hidden)
        self.attention = GatedAttention(dim, heads, drop=attn_drop)
        self.drop, self.drop_path = drop, drop_path

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        head: Tensor | None = None,
        channel: Tensor | None = None,
        block: Tensor | None = None,
    ) -> Tensor:
        """[B, S, dim] to the same; `bias` of keys [B or 1, 1, 1, S]; gates [heads], [hidden] and one of the block."""
        x = x + self._branch(self._dropped(self.attention(self.norm_attention(x), bias, head)), block)
        return x + self._branch(self._feed(self.norm_feedforward(x), channel), block)

    def _feed(self, x: Tensor, channel: Tensor | None) -> Tensor:
        expand, activate, project = self.feedforward
        hidden = activate(expand(x))
        if channel is not None:
            hidden = hidden * channel
        return self._dropped(project(self._dropped(hidden)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop, self.training) if self.drop else x

    def _branch(self, x: Tensor, gate: Tensor | None) -> Tensor:
        if self.drop_path and self.training:  # the whole branch, example by example
            kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.drop_path
            x = x * kept / (1 - self.drop_path)
        return x if gate is None else x * gate


class GatedEncoder(nn.Module):
    """Positions, gated blocks, norm and pool over tokens [B, T, N, C] of a clip; attention is over all T x N of them.

    Positions are learned, a vector a place in the frame and a vector a frame (as arXiv 2102.05095). The token gate acts
    from block `ast_cfg["gate_layer"]` on (default 0, the first): a pruner sees the tokens that enter this block.

    Raises WorkloadError for sizes below 1, rates outside [0, 1), a layer that is not there, and where
    `use_ast_prune` asks for a pruner and none is given.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        places: Mapping[str, int],
        grid: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        drop_rate: float,
        attn_drop: float,
        drop_path_rate: float,
        use_ast_prune: bool,
        ast_cfg: Mapping[str, Any] | None,
        pruner: PrunerFactory | None,
    ) -> None:
        super().__init__()
        for name, rate in (("drop_rate", drop_rate), ("attn_drop", attn_drop), ("drop_path_rate", drop_path_rate)):
            if not 0 <= rate < 1:
                raise WorkloadError(f"{name} is {rate}", "a rate from 0 to below 1")
        self.hidden, self.depth, self.heads, self.drop_rate = round(embed_dim * mlp_ratio), depth, num_heads, drop_rate
        require_positive(embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_hidden=self.hidden)
        self.num_frames, self.tokens, self.dim = num_frames, sum(places.values()), embed_dim
        ends = {name: sum(list(places.values())[: index + 1]) for index, name in enumerate(places)}
        self.slices: Slices = {name: (end - places[name], end) for name, end in ends.items()}

        self.place_positions = nn.Parameter(torch.empty(1, 1, self.tokens, embed_dim))
        self.time_positions = nn.Parameter(torch.empty(1, num_frames, 1, embed_dim))
        rates = [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(
            GatedBlock(embed_dim, num_heads, self.hidden, drop=drop_rate, attn_drop=attn_drop, drop_path=rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

        cfg = {**(ast_cfg or {})}
        self.gate_layer = cfg.get("gate_layer", 0)
        if not isinstance(self.gate_layer, int) or not 0 <= self.gate_layer < depth:
            raise WorkloadError(f"ast_cfg: gate_layer is {self.gate_layer!r}", f"a block from 0 to {depth - 1}")
        self.ast_pruner: Pruner | None = None
        if use_ast_prune:
            if pruner is None:
                raise WorkloadError(
                    "use_ast_prune is asked for, and there is no pruner",
                    "pass pruner=, a class that implements workloads.models.gated_encoder.Pruner, or switch it off",
                )
            cfg |= {"patch_grid_h": grid, "patch_grid_w": grid, "mlp_hidden": self.hidden}
            cfg |= {"num_modalities": len(places), "modalities": list(places)}
            cfg |= {f"num_patches_{name}": count for name, count in places.items()}
            self.ast_pruner = pruner(
                cfg=cfg, embed_dim=embed_dim, num_heads=num_heads, depth=depth, num_patches=self.tokens
            )

    def forward(self, tokens: Tensor, gates: Gates | None = None) -> Encoded:
        """Encode patch tokens [B, T, N, C]; `gates` stand in for what the pruner would decide."""
        pruner = self.ast_pruner if gates is None else None
        pruned: Pruned | None = None
        gates = gates or Gates()
        self._check(gates, tokens.shape[0])
        if pruner is not None:
            head, head_sparsity = pruner.forward_head_gating()
            channel, channel_sparsity = pruner.forward_channel_gating()
            block, block_sparsity = pruner.forward_block_gating()
            gates = Gates(head=head, channel=channel, block=block)

        x = (tokens + self.place_positions + self.time_positions).flatten(1, 2)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        bias = None
        for index, layer in enumerate(self.blocks):
            if index == self.gate_layer:
                if pruner is not None:
                    token, token_sparsity, statistics = pruner.forward_token_gating(x.view(tokens.shape), self.slices)
                    gates = replace(gates, token=token)
                    self._check(gates, tokens.shape[0])
                    pruned = Pruned(
                        sparsity={
                            "sparsity_token": token_sparsity,
                            "sparsity_head": head_sparsity,
                            "sparsity_ch": channel_sparsity,
                            "sparsity_block": block_sparsity,
                        },
                        modal_stats=statistics,
                    )
                bias = None if gates.token is None else _key_bias(gates.token).to(x.dtype)
            own = (None if gate is None else gate[index] for gate in (gates.head, gates.channel, gates.block))
            x = layer(x, bias, *own)
        x = self.norm(x)
        if gates.token is None:
            pooled = x.mean(1)
        else:
            weight = gates.token.flatten(1, 2)
            pooled = (weight * x).sum(1) / weight.sum(1).clamp_min(SMALLEST_GATE)
        return Encoded(pooled=pooled, token_feat=x.view(tokens.shape), gates=gates, pruned=pruned)

    def _check(self, gates: Gates, batch: int) -> None:
        expected: Mapping[str, tuple[tuple[int, ...], ...]] = {
            "token": tuple((first, self.num_frames, self.tokens, 1) for first in (batch, 1)),
            "head": ((self.depth, self.heads),),
            "channel": ((self.depth, self.hidden),),
            "block": ((self.depth,),),
        }
        for name, shapes in expected.items():
            gate: Tensor | None = getattr(gates, name)
            if gate is not None and tuple(gate.shape) not in shapes:
                raise WorkloadError(f"the {name} gate has the shape {tuple(gate.shape)}", f"{list(shapes[0])}")

    def intermediate(self, encoded: Encoded) -> dict[str, Any]:
        """What `return_intermediate` hands out, under the specification's names.

        `token_feat` [B, T, N, C] are the normed tokens that are pooled, `ast_stats` the share gated away of each kind,
        `L_AST` the pruner's regulariser (only with a pruner), `flops_bytes_per_layer` what `layer_costs` says.
        """
        gates, pruned = encoded.gates, encoded.pruned
        answer: dict[str, Any] = {
            "token_feat": encoded.token_feat,
            "ast_stats": gates.sparsity() if pruned is None else pruned.sparsity,
            "flops_bytes_per_layer": self.layer_costs(gates, encoded.token_feat.shape[0]),
        }
        if pruned is not None and self.ast_pruner is not None:
            answer["L_AST"] = self.ast_pruner.compute_L_AST(**pruned.sparsity)
        return answer

    def modal_stats(self, encoded: Encoded) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the pruner's statistics of each modality; without one, the share of tokens that is gated away."""
        if encoded.pruned is not None:
            return encoded.pruned.modal_stats
        token = encoded.gates.token
        return {
            name: {"sparsity": _sparsity(None if token is None else token[:, :, first:end])}
            for name, (first, end) in self.slices.items()
        }

    def layer_costs(self, gates: Gates, batch: int) -> list[dict[str, Any]]:
        """Return name, flops, bytes and seq_len of the blocks' matrix products for `batch` clips, as tensors.

        They are what a trace counts of the network in which what `gates` drop is dropped, and differentiable in them:
        2 MACs; bytes of weights, inputs and outputs; tokens that enter. Patch embedding and classifier have no gate.
        """
        size, dim = self.norm.weight.element_size(), self.dim
        all_tokens = self.norm.weight.new_full((1,), float(self.num_frames * self.tokens))
        kept = all_tokens if gates.token is None else gates.token.sum((1, 2, 3))  # [B or 1]
        rows: list[dict[str, Any]] = []
        for index in range(self.depth):
            tokens = kept if index >= self.gate_layer else all_tokens
            inside = dim if gates.head is None else gates.head[index].sum() * (dim / self.heads)
            hidden = self.hidden if gates.channel is None else gates.channel[index].sum()
            scale = 1.0 if gates.block is None else gates.block[index]
            entering = batch * tokens.mean()
            products: dict[str, tuple[Any, Any]] = {
                "attention.qkv": (dim, 3 * inside),
                "attention.out": (inside, dim),
                "feedforward.0": (dim, hidden),
                "feedforward.2": (hidden, dim),
            }
            costs = {
                name: (2 * entering * k * n, size * ((k + 1) * n + entering * (k + n)))
                for name, (k, n) in products.items()
            }
            pairs = batch * tokens.square().mean()
            costs["attention"] = 4 * pairs * inside, size * 4 * entering * inside
            rows += (
                {
                    "layer": f"blocks.{index}.{name}",
                    "flops": scale * flops,
                    "bytes": scale * moved,
                    "seq_len": tokens.mean(),
                }
                for name, (flops, moved) in costs.items()
            )
        return rows


def _key_bias(token: Tensor) -> Tensor:
    """Token gates [B or 1, T, N, 1] to what is added to the scores of these keys, [B or 1, 1, 1, T N]."""
    at_least_single = token.to(torch.promote_types(token.dtype, torch.float32))
    return (at_least_single.flatten(1) + SMALLEST_GATE).log()[:, None, None]
