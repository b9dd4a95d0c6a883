"""VideoViT and VideoAudioAST: sizes by hand, the specified interface, and gates that mean what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import workloads
from workloads.errors import WorkloadError
from workloads.graph import MATRIX_KINDS, OperatorKind
from workloads.models.gated_encoder import GatedBlock, GatedEncoder, Gates
from workloads.models.video_audio_ast import VideoAudioAST, video_audio_ast
from workloads.models.video_vit import SIZES, VideoViT, video_vit
from workloads.trace import trace
from workloads.training_step import trace_training

Model = VideoViT | VideoAudioAST
BUILD = {"video": video_vit, "audio": video_audio_ast}
both = pytest.mark.parametrize("kind", BUILD)


def small(kind: str, **changes: Any) -> Model:
    """4 frames of 4 patches, 3 blocks of 4 heads, in double precision, its norms and biases not those of a start."""
    torch.manual_seed(0)
    model = BUILD[kind]("tiny", img_size=16, embed_dim=32, depth=3, mlp_ratio=2.0, **changes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def clips(model: Model, batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 4, 3, 16, 16, generator=generator, dtype=torch.float64)
    audio = torch.randn(batch, 4, 64, generator=generator, dtype=torch.float64)
    return (video,) if isinstance(model, VideoViT) else (video, audio)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@both
def test_parameters_and_macs_are_those_counted_by_hand(kind: str, size: str) -> None:
    graph = workloads.load(f"{'videovit' if kind == 'video' else 'videoaudioast'}-{size}")
    s = SIZES[size]
    dim, hidden, frames = s["embed_dim"], int(s["embed_dim"] * s["mlp_ratio"]), s["num_frames"]
    patches, sound = (s["img_size"] // s["patch_size"]) ** 2, kind == "audio"
    places, pixels = patches + sound, 3 * s["patch_size"] ** 2
    block = 4 * dim * dim + 4 * dim + 2 * dim * hidden + hidden + dim + 4 * dim
    parameters = pixels * dim + dim + sound * (64 * dim + dim) + (places + frames) * dim
    parameters += s["depth"] * block + 2 * dim + dim * s["num_classes"] + s["num_classes"]
    assert graph.parameters == parameters
    tokens = frames * places
    macs = frames * patches * pixels * dim + sound * frames * 64 * dim + dim * s["num_classes"]
    attention = s["depth"] * 2 * tokens * tokens * dim
    macs += s["depth"] * tokens * (4 * dim * dim + 2 * dim * hidden) + attention
    assert sum(layer.macs for layer in graph.layers if layer.kind in MATRIX_KINDS) == macs
    assert sum(layer.macs for layer in graph.layers if layer.kind is OperatorKind.ATTENTION) == attention
    assert not graph.refused


def test_base_has_the_blocks_of_vit_b_16() -> None:
    with torch.device("meta"):
        blocks, vit = video_vit("base").encoder.blocks, workloads.models.vit.vit_b_16().blocks
    assert [p.shape for p in blocks.parameters()] == [p.shape for p in vit.parameters()]


# --- the specified interface -----------------------------------------------------------------------------------------


@both
def test_both_layouts_give_the_same_logits(kind: str) -> None:
    model = small(kind)
    video, *sound = clips(model)
    logits = model(video, *sound)
    assert logits.shape == (2, 6)
    torch.testing.assert_close(model(video.transpose(1, 2), *sound), logits)


def test_frames_first_is_meant_where_frames_and_channels_are_alike() -> None:
    model = small("video", num_frames=3)
    video = torch.randn(1, 3, 3, 16, 16, dtype=torch.float64)
    tokens = model.video_tokens(video)
    torch.testing.assert_close(tokens[:, 1], model.video_tokens.patches(video[:, 1]).flatten(2).transpose(1, 2))


@both
def test_intermediates_are_those_specified(kind: str) -> None:
    model = small(kind)
    inputs = clips(model)
    logits, info = model(*inputs, return_intermediate=True)
    torch.testing.assert_close(logits, model(*inputs), rtol=0, atol=0)
    keys = {"token_feat", "ast_stats", "flops_bytes_per_layer"}
    assert set(info) == (keys if kind == "video" else keys | {"modality_slices", "modal_stats"})
    assert info["token_feat"].shape == (2, 4, 4 if kind == "video" else 5, 32)
    torch.testing.assert_close(model.classify(info["token_feat"].mean((1, 2))), logits)
    assert info["ast_stats"] == {f"sparsity_{what}": 0.0 for what in ("token", "head", "ch", "block")}
    if kind == "audio":
        assert info["modality_slices"] == {"video": (0, 4), "audio": (4, 5)}
        assert {name: set(stats) for name, stats in info["modal_stats"].items()} == {
            "video": {"sparsity"},
            "audio": {"sparsity"},
        }


@both
def test_examples_of_a_batch_do_not_mix(kind: str) -> None:
    model = small(kind)
    inputs = clips(model, 3)
    alone = torch.cat([model(*(x[i : i + 1] for x in inputs)) for i in range(3)])
    torch.testing.assert_close(model(*inputs), alone)


def test_patches_frames_and_sound_all_matter_and_have_their_place() -> None:
    model = small("audio")
    video, audio = clips(model)
    logits = model(video, audio)
    for changed in (
        (video.flip(1), audio),  # frames in another order: time positions
        (video.flip(-1), audio),
        (video, audio + 1),
        (video, audio.flip(1)),
    ):
        assert not torch.allclose(model(*changed), logits, atol=1e-4)


# --- gates -----------------------------------------------------------------------------------------------------------


def ones(model: Model, batch: int = 1) -> Gates:
    encoder = model.encoder
    return Gates(
        token=torch.ones(batch, encoder.num_frames, encoder.tokens, 1, dtype=torch.float64),
        head=torch.ones(encoder.depth, encoder.heads, dtype=torch.float64),
        channel=torch.ones(encoder.depth, encoder.hidden, dtype=torch.float64),
        block=torch.ones(encoder.depth, dtype=torch.float64),
    )


class PrunedBlock(nn.Module):
    """A block rebuilt with only these heads and channels."""

    def __init__(self, block: GatedBlock, heads: Tensor, channels: Tensor) -> None:
        super().__init__()
        attention, (expand, _, project) = block.attention, block.feedforward
        dim = attention.out.in_features
        size = dim // attention.heads
        self.heads, self.norms = len(heads), nn.ModuleList([block.norm_attention, block.norm_feedforward])
        inside = (heads[:, None] * size + torch.arange(size)).flatten()
        rows = torch.cat([part * dim + inside for part in range(3)])
        self.qkv = cut(attention.qkv, rows=rows)
        self.out = cut(attention.out, columns=inside)
        self.expand, self.project = cut(expand, rows=channels), cut(project, columns=channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.project(F.gelu(self.expand(self.norms[1](x))))


def cut(linear: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    new = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    new.weight, new.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return new


class PrunedEncoder(nn.Module):
    """The encoder rebuilt without what the hard gates drop, for one clip (clips may keep other tokens)."""

    def __init__(self, encoder: GatedEncoder, gates: Gates) -> None:
        super().__init__()
        self.kept = gates.token[0].flatten().nonzero().flatten()
        self.gate_layer, self.norm = encoder.gate_layer, encoder.norm
        self.before, self.after = nn.ModuleList(), nn.ModuleList()
        for index, block in enumerate(encoder.blocks):
            if gates.block[index]:
                new = PrunedBlock(block, gates.head[index].nonzero()[:, 0], gates.channel[index].nonzero()[:, 0])
                (self.before if index < self.gate_layer else self.after).append(new)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.before:
            x = block(x)
        x = x[:, self.kept]
        for block in self.after:
            x = block(x)
        return self.norm(x).mean(1)


def embedded(model: Model, inputs: tuple[Tensor, ...]) -> Tensor:
    tokens = model.video_tokens(inputs[0])
    if len(inputs) > 1:
        tokens = torch.cat([tokens, model.audio_proj(inputs[1])[:, :, None]], dim=2)
    return (tokens + model.encoder.place_positions + model.encoder.time_positions).flatten(1, 2)


@both
def test_gates_of_one_change_nothing(kind: str) -> None:
    model = small(kind)
    inputs = clips(model)
    logits = model(*inputs)
    for gates in (Gates(), ones(model), ones(model, batch=2)):
        torch.testing.assert_close(model(*inputs, gates=gates), logits, rtol=1e-12, atol=1e-12)


def hard_gates(model: Model, batch: int, drop: str, seed: int) -> Gates:
    """What `drop` names, or everything, is dropped at random; the first of each row is left, the last is not."""
    generator = torch.Generator().manual_seed(seed)
    full = ones(model, batch)
    gates = {}
    for name in ("token", "head", "channel", "block"):
        gate = getattr(full, name).clone()
        if drop in (name, "all"):
            gate *= torch.rand(gate.shape, generator=generator) < 0.6
            flat = gate.flatten(1) if gate.dim() > 1 else gate[None]
            flat[:, 0], flat[:, -1] = 1, 0
        gates[name] = gate
    return Gates(**gates)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("drop", ["token", "head", "channel", "block", "all"])
@both
def test_gates_of_zero_are_the_network_without_what_they_drop(kind: str, drop: str, layer: int) -> None:
    model = small(kind, ast_cfg={"gate_layer": layer})
    inputs, gates = clips(model), hard_gates(model, 2, drop, seed=3)
    gated = model(*inputs, gates=gates)
    tokens = embedded(model, inputs)
    for clip in range(2):
        own = Gates(token=gates.token[clip : clip + 1], head=gates.head, channel=gates.channel, block=gates.block)
        pooled = PrunedEncoder(model.encoder, own).double()(tokens[clip : clip + 1])
        torch.testing.assert_close(gated[clip], model.classify(pooled)[0], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(gated, model(*inputs), atol=1e-4)


def test_a_dropped_sound_is_not_heard() -> None:
    model = small("audio")
    video, audio = clips(model)
    gates = ones(model)
    gates.token[:, :, 4] = 0
    torch.testing.assert_close(model(video, audio, gates=gates), model(video, 9 * audio, gates=gates))
    stats = model(video, audio, True, gates=gates)[1]["modal_stats"]
    assert (stats["video"]["sparsity"], stats["audio"]["sparsity"]) == (0, 1)


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_gradients_of_gates_are_finite_differences_also_where_a_gate_is_shut(at: float) -> None:
    model, step = small("audio"), 1e-6
    inputs, weights = clips(model), torch.linspace(-1, 1, 6, dtype=torch.float64)
    start = ones(model)
    start.token[0, 1, 2], start.head[0, 2], start.channel[2, 5], start.block[1] = at, at, at, at

    def loss(gates: Gates) -> Tensor:
        return (model(*inputs, gates=gates) * weights).sum()

    names = ("token", "head", "channel", "block")
    gates = Gates(**{name: getattr(start, name).clone().requires_grad_() for name in names})
    loss(gates).backward()
    for name, place in zip(names, [(0, 1, 2, 0), (0, 2), (2, 5), (1,)], strict=True):
        value = {other: getattr(start, other).clone() for other in names}
        before = loss(Gates(**value)).item()
        value[name][place] += step  # forwards only: at 0 the gate goes no lower
        slope = (loss(Gates(**value)).item() - before) / step
        found = getattr(gates, name).grad
        assert torch.isfinite(found).all()
        assert found[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)
        assert abs(slope) > 1e-5


def test_a_shut_gate_has_its_gradient_in_single_precision_too() -> None:
    model = small("video")
    gates = hard_gates(model, 2, "token", seed=1)
    found = []
    for dtype in (torch.float32, torch.float64):
        token = gates.token.to(dtype).requires_grad_()
        model.to(dtype)(*(x.to(dtype) for x in clips(model)), gates=Gates(token=token)).square().sum().backward()
        assert (token.grad[token == 0] != 0).all()
        found.append(token.grad.double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


# --- what a layer costs ----------------------------------------------------------------------------------------------


def products(module: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, int]]:
    """FLOPs and bytes of each matrix product, as traced."""
    layers = trace(module.eval(), inputs, name="net").layers
    return {
        x.module: (x.flops, x.bytes) for x in layers if "blocks." in f"blocks.{x.module}" and x.macs and is_matrix(x)
    }


def is_matrix(layer: workloads.Layer) -> bool:
    return layer.kind in (OperatorKind.LINEAR, OperatorKind.ATTENTION)


@both
def test_layer_costs_without_gates_are_those_traced(kind: str) -> None:
    model = small(kind).float()
    inputs = tuple(x.float() for x in clips(model))
    traced = products(model, *inputs)
    costs = model(*inputs, return_intermediate=True)[1]["flops_bytes_per_layer"]
    assert len(costs) == 5 * 3
    for row in costs:
        assert (row["flops"].item(), row["bytes"].item()) == traced[f"encoder.{row['layer']}"], row["layer"]
        assert row["seq_len"].item() == model.encoder.num_frames * model.encoder.tokens


def test_gates_promise_what_the_pruned_network_costs() -> None:
    model = small("video", ast_cfg={"gate_layer": 1}).float()
    gates = hard_gates(model, 1, "all", seed=5)
    rows = model.encoder.layer_costs(gates, batch=1)
    graph = trace(PrunedEncoder(model.encoder, gates).float().eval(), (torch.zeros(1, 16, 32),), name="pruned")
    matrix = [x for x in graph.layers if is_matrix(x)]
    assert len(matrix) == 5 * int(gates.block.sum()) < 15
    assert sum(row["flops"] for row in rows).item() == sum(x.flops for x in matrix)
    assert sum(row["bytes"] for row in rows).item() == sum(x.bytes for x in matrix)


def test_layer_costs_are_differentiable_in_every_gate() -> None:
    model = small("audio")
    names = ("token", "head", "channel", "block")
    gates = Gates(**{name: getattr(ones(model), name).clone().requires_grad_() for name in names})
    _, info = model(*clips(model), return_intermediate=True, gates=gates)
    sum(row["flops"] + row["bytes"] for row in info["flops_bytes_per_layer"]).backward()
    for name in names:
        assert (getattr(gates, name).grad > 0).all(), name


# --- a pruner --------------------------------------------------------------------------------------------------------


class Learned(nn.Module):
    """A pruner with a learned logit a token place, head, channel and block; straight-through."""

    def __init__(self, cfg: Mapping[str, Any], embed_dim: int, num_heads: int, depth: int, num_patches: int) -> None:
        super().__init__()
        self.cfg, self.sizes = cfg, (embed_dim, num_heads, depth, num_patches)
        shapes = (num_patches, 1), (depth, num_heads), (depth, cfg["mlp_hidden"]), (depth,)
        self.logits = nn.ParameterList(nn.Parameter(torch.randn(shape) + 0.5) for shape in shapes)
        self.seen: list[torch.Size] = []

    def _gate(self, which: int) -> Tensor:
        soft = self.logits[which].sigmoid()
        return (soft > 0.5).to(soft) + soft - soft.detach()

    def forward_token_gating(
        self, token_feat: Tensor, modality_slices: Mapping[str, tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor, Mapping[str, Mapping[str, Tensor]]]:
        self.seen.append(token_feat.shape)
        mask = self._gate(0).expand(*token_feat.shape[:2], -1, -1)
        stats = {name: {"sparsity": 1 - mask[:, :, s:e].mean()} for name, (s, e) in (modality_slices or {}).items()}
        return mask, 1 - mask.mean(), stats

    def forward_head_gating(self) -> tuple[Tensor, Tensor]:
        return self._gate(1), 1 - self._gate(1).mean()

    def forward_channel_gating(self) -> tuple[Tensor, Tensor]:
        return self._gate(2), 1 - self._gate(2).mean()

    def forward_block_gating(self) -> tuple[Tensor, Tensor]:
        return self._gate(3), 1 - self._gate(3).mean()

    def compute_L_AST(
        self, sparsity_token: Tensor, sparsity_head: Tensor, sparsity_ch: Tensor, sparsity_block: Tensor
    ) -> Tensor:
        return 4 - sparsity_token - sparsity_head - sparsity_ch - sparsity_block


@both
def test_a_pruner_decides_the_gates_and_trains_with_the_model(kind: str) -> None:
    model = small(kind, use_ast_prune=True, ast_cfg={"rho_target": 0.5, "gate_layer": 1}, pruner=Learned)
    pruner, inputs = model.encoder.ast_pruner, clips(model)
    names = ["video"] if kind == "video" else ["video", "audio"]
    sizes = {"num_patches_video": 4} | ({} if kind == "video" else {"num_patches_audio": 1})
    assert pruner.cfg == sizes | {
        "rho_target": 0.5,
        "gate_layer": 1,
        "patch_grid_h": 2,
        "patch_grid_w": 2,
        "mlp_hidden": 64,
        "num_modalities": len(names),
        "modalities": names,
    }
    assert pruner.sizes == (32, 4, 3, 4 + (kind == "audio"))
    logits, info = model(*inputs, return_intermediate=True)
    assert pruner.seen == [torch.Size([2, 4, 4 + (kind == "audio"), 32])]
    token = pruner._gate(0).expand(2, 4, -1, -1)
    same = Gates(token=token, head=pruner._gate(1), channel=pruner._gate(2), block=pruner._gate(3))
    torch.testing.assert_close(logits, model(*inputs, gates=same))
    assert info["ast_stats"].keys() == same.sparsity().keys()
    for name, value in same.sparsity().items():
        torch.testing.assert_close(info["ast_stats"][name], value)
    torch.testing.assert_close(info["L_AST"], 4 - sum(info["ast_stats"].values()))
    if kind == "audio":
        assert set(info["modal_stats"]) == {"video", "audio"}
    (logits.square().sum() + info["L_AST"]).backward()
    assert all((p.grad != 0).any() and torch.isfinite(p.grad).all() for p in pruner.parameters())


def test_a_model_with_its_pruner_traces_and_its_step_too() -> None:
    model = small("audio", use_ast_prune=True, pruner=Learned).float()
    inputs = tuple(x.float() for x in clips(model))
    for graph in (trace(model, inputs, name="pruned"), trace_training(model, inputs, name="pruned")):
        assert not graph.refused
        assert any(layer.module.startswith("encoder.ast_pruner") or "log" in layer.operator for layer in graph.layers)


@both
def test_without_a_pruner_pruning_is_refused(kind: str) -> None:
    with pytest.raises(WorkloadError, match="there is no pruner") as caught:
        small(kind, use_ast_prune=True)
    assert "pruner=" in caught.value.hint


def test_pruning_is_the_specified_default_of_the_audio_model() -> None:
    with pytest.raises(WorkloadError, match="there is no pruner"):
        VideoAudioAST(**SIZES["tiny"], audio_feat_dim=64)


# --- training, tracing, errors ---------------------------------------------------------------------------------------


@both
def test_training_lowers_the_loss(kind: str) -> None:
    model = small(kind, drop_rate=0.1, attn_drop=0.1, drop_path_rate=0.1).float().train()
    inputs, labels = tuple(x.float() for x in clips(model, 4)), torch.tensor([0, 1, 2, 3])
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(25):
        loss = F.cross_entropy(model(*inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropping_a_path_drops_the_branch_of_an_example_or_doubles_it() -> None:
    torch.manual_seed(0)
    block, x = GatedBlock(8, 2, 16, drop_path=0.5), torch.randn(200, 3, 8)
    nn.init.zeros_(block.feedforward[2].weight)
    nn.init.zeros_(block.feedforward[2].bias)
    full = block.eval()(x) - x
    branch = block.train()(x) - x
    dropped = (branch == 0).all(dim=2).all(dim=1)
    assert 60 < dropped.sum() < 140
    torch.testing.assert_close(branch[~dropped], 2 * full[~dropped], atol=1e-5, rtol=1e-4)


@both
def test_dropout_is_off_in_evaluation(kind: str) -> None:
    model = small(kind, drop_rate=0.3, attn_drop=0.3, drop_path_rate=0.3)
    inputs = clips(model)
    torch.testing.assert_close(model(*inputs), small(kind)(*inputs))
    assert not torch.allclose(model.train()(*inputs), model(*inputs))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"patch_size": 5}, "patches of 5"),
        ({"num_heads": 3}, "3 heads"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1"),
        ({"ast_cfg": {"gate_layer": 4}}, "gate_layer is 4"),
        ({"ast_cfg": {"gate_layer": "first"}}, "gate_layer is 'first'"),
    ],
)
@both
def test_sizes_that_do_not_fit_are_named(kind: str, changes: dict[str, Any], names: str) -> None:
    with pytest.raises(WorkloadError, match=names) as caught:
        BUILD[kind]("tiny", **changes)
    assert caught.value.hint


def test_inputs_that_do_not_fit_are_named() -> None:
    model = small("audio")
    video, audio = clips(model)
    with pytest.raises(WorkloadError, match=r"num_frames T = 4 and got one of shape \(2, 3, 3, 16, 16\)"):
        model(video[:, :3], audio)
    with pytest.raises(WorkloadError, match=r"audio of shape \(2, 3, 64\)"):
        model(video, audio[:, :3])
    with pytest.raises(WorkloadError, match=r"head gate has the shape \(4,\)"):
        model(video, audio, gates=Gates(head=torch.ones(4)))
    with pytest.raises(WorkloadError, match=r"token gate has the shape \(3, 4, 5, 1\)"):
        model(video, audio, gates=Gates(token=torch.ones(3, 4, 5, 1)))
    with pytest.raises(WorkloadError, match="no size 'smal'") as caught:
        video_vit("smal")
    assert caught.value.hint == "did you mean 'small'?"
