"""MossFormer2 against its published sizes and counts, and its parts against their formulas written out."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.workloads.tracing_help import matrix_macs, on_meta, trace
from workloads import WorkloadError
from workloads.graph import OperatorKind
from workloads.models.gated_fsmn import FSMN, DilatedMemory, GatedFSMN
from workloads.models.mossformer2 import MossFormer2, ScaledPositions
from workloads.models.mossformer2_attention import (
    GatedAttention,
    RotaryPositions,
    ScaleNorm,
    joint_attention,
    rotate,
)

LARGE = {"layers": 24, "embedding_dim": 512, "sequence_dim": 512}
SMALL = {"layers": 25, "embedding_dim": 384, "sequence_dim": 384}


def tiny(**changes: int | float) -> MossFormer2:
    sizes = {"layers": 2, "embedding_dim": 12, "sequence_dim": 8, "bottleneck_dim": 6, "fsmn_order": 3}
    return MossFormer2(**(sizes | {"group": 16, "query_key_dim": 4} | changes))


def excite(module: nn.Module, seed: int = 0) -> Any:
    """Give every parameter, those that start at zero or one included, a value of its own, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


# --- published figures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "parameters"), [(LARGE, 55_735_410), (SMALL, 37_755_382)])
def test_parameters_are_those_of_the_public_implementation(sizes: dict[str, int], parameters: int) -> None:
    with torch.device("meta"):
        model = MossFormer2(**sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    frozen = [parameter.shape for parameter in model.parameters() if not parameter.requires_grad]
    assert frozen == [(16,)]  # the rotary frequencies, which the public implementation counts too


def products(layers: int, n: int, samples: int) -> int:
    """MACs of convolutions and matrix products: kernel 16, groups of 256, keys of 128, bottleneck 256, two speakers."""
    frames = samples // 8 - 1
    grouped = math.ceil(frames / 256) * 256
    projections = n * 4 * n + n * 128 + 2 * n * n + 2 * n * 256 + 4 * 256**2
    filters = 17 * (4 * n + 128 + n + 2 * 256) + 39 * 256 * (1 + 2)
    attention = 256 * 128 + 256 * 4 * n + 2 * 128 * 4 * n
    ends = 16 * n + n * n + 2 * n * n + 2 * 3 * n * n + 2 * 16 * n
    return layers * (frames * (projections + filters) + grouped * attention) + frames * ends


def norms(layers: int, n: int, samples: int) -> int:
    """What fvcore counts of norms: 5 an element, of ScaleNorm nothing."""
    return (samples // 8 - 1) * 5 * (layers * (2 * 256 + 4 * 256) + 3 * n)


PUBLISHED = [  # layers, channels, GMACs of 1, 2 and 4 s at 16 kHz
    (24, 512, (165.7, 331.5, 663.0)),
    (25, 384, (117.9, 235.8, 471.7)),
]


@pytest.mark.parametrize(("layers", "n", "gmacs"), PUBLISHED)
def test_the_formula_gives_the_published_counts(layers: int, n: int, gmacs: tuple[float, ...]) -> None:
    counts = tuple(round(products(layers, n, 16_000 * seconds) / 1e9, 1) for seconds in (1, 2, 4))
    assert counts == gmacs


@pytest.mark.parametrize(("n", "samples"), [(512, 16_000), (384, 8000), (384, 2048 * 8)])
def test_two_layers_trace_to_the_formula(n: int, samples: int) -> None:
    model, inputs = on_meta(lambda: MossFormer2(layers=2, embedding_dim=n, sequence_dim=n), (1, samples))
    graph = trace(model, *inputs)
    assert not graph.refused
    assert matrix_macs(graph) == products(2, n, samples)
    assert graph.macs == products(2, n, samples) + norms(2, n, samples)
    assert graph.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_two_small_layers_count_what_fvcore_counts_of_the_public_implementation() -> None:
    """5,972,906,510 over half a second, once its einsums are counted as fvcore does: by numpy's text, and halved.

    numpy prints four digits of 2 operations a product that is summed, 1 of one that is not. The public implementation
    attends to v and u separately, and makes queries and keys, positions and rotary angles by einsums without a sum.
    """

    def einsum(operations: int) -> int:
        return int(float(f"{operations:.3e}") / 2)

    model, inputs = on_meta(lambda: MossFormer2(layers=2, embedding_dim=384, sequence_dim=384), (1, 8000))
    graph = trace(model, *inputs)
    frames, groups, keys, half = 999, 4, 128, 2 * 384
    scores = einsum(2 * groups * 256 * 256 * keys)
    local = 2 * einsum(2 * groups * 256 * 256 * half)
    context = attended = 2 * einsum(2 * groups * 256 * keys * half)
    layer = einsum(frames * 4 * keys) + scores + local + context + attended
    counted = 2 * layer + einsum(frames * 384 // 2) + einsum(frames * 16)
    assert graph.macs - matrix_macs(graph, OperatorKind.MATMUL) + counted == 5_972_906_510


OFFICIAL = torch.tensor(  # [speaker, sample] of the authors' network (clearvoice 0.1.2, MossFormer2_SS_16K), at AT
    [
        [0.027548, 0.095277, -0.377754, -0.228726, -0.336169, -0.575729],
        [0.022128, 0.080896, -0.391468, -0.26573, -0.339768, -0.548849],
    ],
    dtype=torch.float64,
)
AT = [0, 1, 700, 1500, 2100, 2399]


def test_it_computes_what_the_authors_net_does() -> None:
    """Every parameter set to a cosine of its place; the authors' net got the same, name by name, and gave OFFICIAL."""
    model = MossFormer2(layers=2, embedding_dim=12, sequence_dim=12).double().eval()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for index, parameter in enumerate(learned):
            place = torch.arange(parameter.numel(), dtype=torch.float64) * 1.7 + parameter.numel() + index
            if parameter.dim() == 4:  # scales and offsets of queries and keys, large so that attention matters
                values = 4 * place.cos()
            elif parameter.dim() > 1:
                values = 1.5 * (parameter.numel() / parameter.shape[0]) ** -0.5 * place.cos()
            else:
                values = 0.3 + 0.2 * place.cos()
            parameter.copy_(values.view(parameter.shape))
        time = torch.arange(2400, dtype=torch.float64)
        mixture = torch.sin(0.05 * time) + torch.sin(0.0003 * time * time)
        torch.testing.assert_close(model(mixture[None])[0][:, AT], OFFICIAL, atol=2e-6, rtol=0)


# --- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "group"), [(8, 4), (11, 4), (3, 8), (1, 1)])
def test_joint_attention_is_its_formula(length: int, group: int) -> None:
    torch.manual_seed(length)
    q, k, gq, gk = (torch.randn(2, length, 3, dtype=torch.float64) for _ in range(4))
    v = torch.randn(2, length, 5, dtype=torch.float64)
    expected = torch.zeros_like(v)
    for b, i, j in product(range(2), range(length), range(length)):
        if i // group == j // group:
            expected[b, i] += max(0.0, float(q[b, i] @ k[b, j]) / group) ** 2 * v[b, j]
        expected[b, i] += gq[b, i] @ gk[b, j] * v[b, j] / length
    torch.testing.assert_close(joint_attention(q, k, gq, gk, v, group=group), expected)


def test_gated_attention_is_its_formula() -> None:
    """Token shift, both queries and keys of one projection, v and u gating each other, the residual connection."""
    layer = excite(GatedAttention(6, group=4, query_key_dim=4, expansion=4, kernel=3))
    x, (cosine, sine) = torch.randn(2, 7, 6, dtype=torch.float64), RotaryPositions(4).double()(7)
    shifted = x.clone()
    shifted[:, 1:, :3], shifted[:, 0, :3] = x[:, :-1, :3], 0.0
    v, u = layer.to_values(shifted).split(12, dim=-1)
    made = [layer.to_query_key(shifted) * layer.scale[i, 0, 0] + layer.offset[i, 0, 0] for i in range(4)]
    q, gq, k, gk = (rotate(item, cosine, sine) for item in made)
    attended_v, attended_u = (joint_attention(q, k, gq, gk, item, group=4) for item in (v, u))
    expected = x + layer.to_out(attended_u * v / (1 + torch.exp(-attended_v * u)))
    torch.testing.assert_close(layer(x, cosine, sine), expected)


def test_a_projection_is_its_formula() -> None:
    projection = excite(GatedAttention(6, group=4, query_key_dim=4, expansion=4, kernel=3)).to_query_key
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    rms = x.square().mean(-1, keepdim=True).sqrt()
    y = F.pad(
        F.silu(x / rms * projection.norm.gain @ projection.linear.weight.T + projection.linear.bias), (0, 0, 1, 1)
    )
    taps = projection.conv.weight[:, 0]
    expected = y[:, 1:-1] + sum(y[:, tap : tap + 5] * taps[:, tap] for tap in range(3))
    torch.testing.assert_close(projection(x), expected)


def test_scale_norm_of_silence_is_silence() -> None:
    norm = ScaleNorm(6)
    assert torch.equal(norm(torch.zeros(2, 6)), torch.zeros(2, 6))
    assert norm(torch.randn(9, 6)).square().mean(-1).tolist() == pytest.approx([1.0] * 9, rel=1e-5)


def test_rotary_positions_turn_pairs_of_channels() -> None:
    """Pair i at position p is a complex number times exp(j p 10000^(-2 i / D)); the channels beyond D stay."""
    x = torch.randn(2, 9, 11, dtype=torch.float64)
    turned = rotate(x, *RotaryPositions(8).double()(9))
    for p, i in product(range(9), range(4)):
        number = torch.complex(x[:, p, 2 * i], x[:, p, 2 * i + 1])
        angle = torch.tensor(p * 10_000 ** (-2 * i / 8), dtype=torch.float64)
        expected = torch.view_as_real(number * torch.polar(torch.ones_like(angle), angle))
        torch.testing.assert_close(turned[:, p, 2 * i : 2 * i + 2], expected, atol=1e-6, rtol=0)
    assert torch.equal(turned[..., 8:], x[..., 8:])


def test_rotary_products_tell_only_the_distance() -> None:
    query, key = (torch.randn(8, dtype=torch.float64) for _ in range(2))
    angles = RotaryPositions(8).double()(20)
    products_of = rotate(query.expand(20, 8), *angles) @ rotate(key.expand(20, 8), *angles).T
    torch.testing.assert_close(products_of[3, 1:8], products_of[12, 10:17])
    assert not torch.allclose(products_of[3, 1:8], products_of[3, 2:9])


def test_scaled_positions_are_the_published_sinusoids() -> None:
    positions = ScaledPositions(6)
    positions.scale.data.fill_(2.0)
    added = positions(torch.zeros(1, 6, 5))[0].detach()
    for p, i in product(range(5), range(3)):
        angle = p / 10_000 ** (2 * i / 6)
        assert float(added[i, p]) == pytest.approx(2 * math.sin(angle), abs=1e-6)
        assert float(added[3 + i, p]) == pytest.approx(2 * math.cos(angle), abs=1e-6)


def remembered(memory: DilatedMemory, x: Tensor, order: int) -> Tensor:
    """The memory of `x` [channels, L], frame by frame, tap by tap."""
    channels, length = x.shape
    known = [x]
    for depth, (conv, norm, activation) in enumerate(
        zip(memory.filters, memory.norms, memory.activations, strict=True)
    ):
        stacked, out = torch.cat(known), torch.zeros_like(x)
        for channel, t, tap, source in product(range(channels), range(length), range(2 * order - 1), range(depth + 1)):
            if 0 <= (at := t + (tap - order + 1) * 2**depth) < length:
                value = stacked[channel * (depth + 1) + source, at]
                out[channel, t] += conv.weight[channel, source, tap] * value
        mean, variance = out.mean(1, keepdim=True), out.var(1, keepdim=True, unbiased=False)
        out = (out - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None] + norm.bias[:, None]
        known.insert(0, torch.where(out > 0, out, activation.weight[:, None] * out))
    return known[0]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_memory_is_its_formula(layers: int) -> None:
    memory = excite(DilatedMemory(4, order=2, layers=layers))
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    torch.testing.assert_close(memory(x), torch.stack([remembered(memory, example, 2) for example in x]))


def test_the_gated_memory_is_its_formula() -> None:
    fsmn = excite(FSMN(4, order=2, layers=2))
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    low_rank = F.relu(x @ fsmn.linear.weight.T + fsmn.linear.bias) @ fsmn.project.weight.T
    torch.testing.assert_close(fsmn(x), x + remembered(fsmn.memory, low_rank[0].T, 2).T)

    gated = excite(GatedFSMN(6, 4, order=2, kernel=3))
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    inner = x @ gated.reduce.weight[..., 0].T + gated.reduce.bias
    inner = gated.norm_in(torch.where(inner > 0, inner, gated.activation.weight * inner))
    inner = gated.norm_out(gated.fsmn(gated.to_memory(inner)) * gated.to_gate(inner) + inner)
    torch.testing.assert_close(gated(x), x + inner @ gated.restore.weight[..., 0].T + gated.restore.bias)


# --- the whole network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 15, 16, 17, 24, 25, 999, 1032, 1040])
@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_any_length_is_separated(length: int, speakers: int) -> None:
    torch.manual_seed(0)
    model, mixture = tiny(speakers=speakers).eval(), torch.randn(2, length)
    with torch.no_grad():
        sources = model(mixture)
        assert sources.shape == (2, speakers, length)
        assert torch.isfinite(sources).all()
        assert torch.equal(model(mixture[:, None]), sources)


def test_examples_of_a_batch_do_not_mix() -> None:
    model, mixture = excite(tiny()), torch.randn(3, 500, dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([model(example[None]) for example in mixture])
        torch.testing.assert_close(model(mixture), alone)
        assert alone.std() > 1e-6


def test_sources_are_decoded_masks_of_one_representation() -> None:
    """With masks of all ones each speaker is what encoder and decoder make of the mixture."""
    model = excite(tiny(speakers=3))
    mixture = torch.randn(2, 400, dtype=torch.float64)
    model.mask_net.forward = lambda x: torch.ones(2, 3, *x.shape[1:], dtype=x.dtype)
    frames = mixture.unfold(1, 16, 8) @ model.encoder.weight[:, 0].T
    pieces, expected = F.relu(frames) @ model.decoder.weight[:, 0], torch.zeros(2, 400, dtype=torch.float64)
    for index in range(pieces.shape[1]):
        expected[:, 8 * index : 8 * index + 16] += pieces[:, index]
    torch.testing.assert_close(model(mixture), expected[:, None].expand(2, 3, 400))


def test_masks_are_made_in_the_published_order() -> None:
    """Positions, layers, two norms and the skip around them, then speaker by speaker tanh gated by a sigmoid."""

    def pointwise(conv: nn.Conv1d, y: Tensor) -> Tensor:
        y = torch.einsum("oi,bil->bol", conv.weight[..., 0], y)
        return y if conv.bias is None else y + conv.bias[:, None]

    net = excite(tiny(speakers=3)).mask_net
    stack, x = net.stack, torch.randn(2, 12, 40, dtype=torch.float64)
    entered = net.positions(pointwise(net.enter, F.group_norm(x, 1, net.norm.weight, net.norm.bias, 1e-8)))
    y = entered.transpose(1, 2)
    for attention, recurrence in zip(stack.attentions, stack.recurrences, strict=True):
        y = recurrence(attention(y, *stack.rotary(40)))
    y = F.layer_norm(y, (8,), stack.norm_channels.weight, stack.norm_channels.bias, 1e-6).transpose(1, 2)
    y = entered + F.group_norm(y, 1, stack.norm_all.weight, stack.norm_all.bias, 1e-8)
    parts = pointwise(net.part, F.prelu(y, net.activation.weight))
    masks = net(x)
    for speaker in range(3):
        part = parts[:, 8 * speaker : 8 * speaker + 8]
        gated = torch.tanh(pointwise(net.output, part)) * torch.sigmoid(pointwise(net.gate, part))
        torch.testing.assert_close(masks[:, speaker], pointwise(net.leave, gated).clamp(min=0))


def test_gradients_reach_every_parameter_and_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model, mixture = tiny(dropout=0.0).train(), torch.randn(2, 600)
    target = 0.1 * torch.randn(2, 2, 600)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(dict(model.named_parameters())) - set(learned) == {"mask_net.stack.rotary.frequencies"}
    optimizer, losses = torch.optim.Adam(learned.values(), lr=1e-3), []
    for _ in range(8):
        loss = (model(mixture) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned.values())
        assert all((p.grad != 0).any() for p in learned.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_dropout_is_drawn_only_in_training() -> None:
    model, mixture = excite(tiny(dropout=0.5)).train(), torch.randn(1, 400, dtype=torch.float64)
    assert not torch.equal(model(mixture), model(mixture))
    model.eval()
    assert torch.equal(model(mixture), model(mixture))


def test_the_graph_is_one_for_all_lengths() -> None:
    """Whole groups of frames, or not; whole frames, or not: the same operators in the same modules."""
    model, inputs = on_meta(lambda: tiny(layers=1), (1, 8 * 33), (1, 8 * 32), (1, 8 * 40 + 3))
    first, *others = ([(x.operator, x.module) for x in trace(model, x).layers] for x in inputs)
    assert others == [first, first]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kernel": 15}, "kernel is 15"),
        ({"query_key_dim": 5}, "query_key_dim is 5"),
        ({"sequence_dim": 9}, "sequence_dim is 9"),
        ({"speakers": 0}, "speakers is 0"),
        ({"layers": 0}, "layers is 0"),
        ({"group": 0}, "group is 0"),
        ({"bottleneck_dim": 0}, "bottleneck_dim is 0"),
        ({"fsmn_layers": 0}, "fsmn_layers is 0"),
        ({"fsmn_order": 0}, "fsmn_order is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, int], named: str) -> None:
    with pytest.raises(WorkloadError, match=named) as caught:
        tiny(**changes)
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(400,), (1, 2, 400), (1, 0), (1, 1, 1, 400)])
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WorkloadError) as caught:
        tiny()(torch.zeros(shape))
    assert str(shape) in caught.value.message
    assert caught.value.hint == "[B, T] or [B, 1, T], T at least 1"
