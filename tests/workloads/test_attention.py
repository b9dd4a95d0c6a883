"""Which layers belong to attention: MACs by hand for its forms, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.attention import attention_layers
from workloads.graph import WorkloadGraph
from workloads.models.linear_transformer import LinearTransformerLayer
from workloads.models.mossformer2_attention import GatedAttention
from workloads.segments import build_segments
from workloads.trace import trace
from workloads.training_step import trace_training

N, C = 6, 8  # tokens, channels


def macs(graph: WorkloadGraph) -> int:
    """MACs of matrix products that belong to attention."""
    inside = attention_layers(graph)
    kinds = {"conv", "linear", "matmul", "attention"}
    return sum(layer.macs for layer, chosen in zip(graph.layers, inside, strict=True) if chosen and layer.kind in kinds)


class Attention(nn.Module):
    """Single-head attention written out, with the softmax as a module of its own."""

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.qkv, self.out, self.scores = nn.Linear(C, 3 * C), nn.Linear(C, C), scores

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out: Tensor = self.out(self.scores(query @ key.transpose(-1, -2) / C**0.5) @ value)
        return out


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class Block(nn.Module):
    """A mixer between two linear layers of the model itself."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.before, self.mixer, self.after = nn.Linear(C, C), mixer, nn.Linear(C, C)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(F.relu(x + self.mixer(F.relu(self.before(x)))))
        return out


@pytest.mark.parametrize("scores", [nn.Softmax(dim=-1), SquaredReLU(), nn.Identity()])
def test_two_products_of_activations_are_attention_whatever_is_between(scores: nn.Module) -> None:
    graph = trace(Block(Attention(scores)).eval(), (torch.zeros(1, N, C),), name="block")
    assert macs(graph) == 4 * N * C * C + 2 * N * N * C
    (mixer,) = [segment for segment in build_segments(graph, depth=1) if segment.name == "mixer"]
    assert mixer.attn_flops_ratio == 1.0
    assert sum(s.attn_flops_ratio * s.flops for s in build_segments(graph, segment_size=1)) == mixer.flops


def test_linear_attention_is_attention() -> None:
    heads, width = 2, 3
    layer = LinearTransformerLayer(C, heads=heads, head_dim=width, hidden_scale=4)
    graph = trace(layer.eval(), (torch.zeros(1, N, C),), name="layer")
    projections, kernels, sums = 4 * N * C * heads * width, 2 * N * heads * width * width, N * heads * width
    assert macs(graph) == projections + kernels + sums  # not the feed-forward


def test_gated_attention_is_attention_with_its_values_and_gates() -> None:
    gated = GatedAttention(C, group=4, query_key_dim=2, expansion=4, kernel=3)
    cosine = torch.ones(N, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gated, self.mlp = gated, nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.mlp(self.gated(x, cosine, cosine))
            return out

    graph = trace(Net().eval(), (torch.zeros(1, N, C),), name="net")
    inside = attention_layers(graph)
    assert [layer.module.startswith("gated") for layer in graph.layers] == inside.tolist()
    assert inside.any()
    assert not inside.all()


def test_the_model_itself_is_no_module_of_attention() -> None:
    graph = trace(Attention(nn.Softmax(dim=-1)).eval(), (torch.zeros(1, N, C),), name="attention")
    assert macs(graph) == 2 * N * N * C  # the kernels alone


class Experts(nn.Module):
    """Softmax over experts, whose outputs are summed by a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(C, 3), nn.ModuleList(nn.Linear(C, C) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1).unsqueeze(-2)  # [B, N, 1, 3]
        return (shares @ torch.stack([expert(x) for expert in self.experts], dim=-2)).squeeze(-2)


class LowRank(nn.Module):
    """Two products of activations with a weight between them."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.Linear(N, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(x @ x.transpose(-1, -2)) @ x


class Squeeze(nn.Module):
    """A gate of channels by softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(C, C))

    def forward(self, x: Tensor) -> Tensor:
        return x * F.linear(x, self.weight).softmax(-1)


@pytest.mark.parametrize("mixer", [Experts, LowRank, Squeeze])
def test_gates_and_single_products_are_no_attention(mixer: type[nn.Module]) -> None:
    """Nor is the gradient of a weight, a product of two activations, together with the softmax of its module."""
    assert not attention_layers(trace(Block(mixer()).eval(), (torch.zeros(1, N, C),), name="block")).any()
    assert not attention_layers(trace_training(Block(mixer()), (torch.zeros(1, N, C),), cache=False)).any()


@pytest.mark.parametrize("scores", [nn.Softmax(dim=-1), SquaredReLU()])
def test_a_training_step_of_attention_is_three_times_its_forward_pass(scores: nn.Module) -> None:
    graph = trace_training(Block(Attention(scores)), (torch.zeros(1, N, C),), cache=False)
    assert macs(graph) == 3 * (4 * N * C * C + 2 * N * N * C)
    inside = attention_layers(graph)
    assert {layer.phase for layer, chosen in zip(graph.layers, inside, strict=True) if chosen} == {
        "forward",
        "backward",
        "optimizer",
    }
    updated = {layer.module for layer in np.array(graph.layers)[inside] if layer.phase == "optimizer"}
    assert updated == {"mixer.qkv", "mixer.out"}
