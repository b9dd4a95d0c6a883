"""What operators count: against fvcore, torch's own counter and formulas, the silent miscounts above all."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.workloads.tracing_help import Call, fvcore_total, matrix_macs, on_meta, only, torch_total, trace
from workloads import OperatorKind
from workloads.graph import MATRIX_KINDS
from workloads.models.htdemucs import HTDemucs


class Mix(nn.Module):
    """Convolutions of every sort, norms and a linear layer, all of which fvcore counts."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Conv1d(3, 8, 5, stride=2, padding=2)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8, dilation=2, padding=2)
        self.norm = nn.GroupNorm(2, 8)
        self.decode = nn.ConvTranspose1d(8, 6, 4, stride=2, groups=2)
        self.image = nn.Conv2d(1, 4, (3, 2), stride=(2, 1))
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1)
        self.batch = nn.BatchNorm2d(2)
        self.volume = nn.Conv3d(1, 2, 2)
        self.layer = nn.LayerNorm(11)
        self.head = nn.Linear(11, 5)

    def forward(self, x):
        x = self.decode(self.norm(self.depthwise(self.encode(x))))
        x = self.batch(self.up(self.image(x[:, None])))
        x = self.volume(x[:, None]).mean((1, 2, 3))
        return self.head(self.layer(x[:, :11]))


def test_equals_fvcore_and_torch_on_convolutions_and_norms():
    module, inputs = Mix().eval(), (torch.randn(2, 3, 20),)
    graph = trace(module, *inputs)
    assert {layer.counting for layer in graph.layers} <= {"fvcore", "estimated", "moved"}
    assert graph.macs == fvcore_total(module, inputs)
    assert matrix_macs(graph) == torch_total(module, inputs)
    assert graph.parameters == sum(p.numel() for p in module.parameters())
    assert all(layer.flops == 2 * layer.macs for layer in graph.layers if layer.macs)
    shape = only(graph, "aten.conv_transpose1d").shape
    assert (shape["in_channels"], shape["out_channels"], shape["groups"], shape["transposed"]) == (8, 6, 2, 1)
    assert (shape["kernel_w"], shape["stride_w"], shape["in_w"], shape["out_w"]) == (4, 2, 10, 22)


def test_padding_by_name_is_counted_though_fvcore_misses_it():
    module, inputs = nn.Conv1d(3, 8, 5, dilation=2, padding="same").eval(), (torch.randn(2, 3, 20),)
    layer = only(trace(module, *inputs), "aten.conv1d")
    assert layer.macs == torch_total(module, inputs) == 2 * 8 * 20 * 3 * 5
    assert fvcore_total(module, inputs) == 0
    assert (layer.counting, layer.shape["padding_w"]) == ("handle", 4)


def test_a_small_htdemucs_equals_fvcore_and_torch():
    sizes = {"channels": 8, "nfft": 2048, "depth": 3, "t_layers": 2, "t_heads": 2, "samplerate": 8000, "segment_s": 1.0}
    module, inputs = HTDemucs(**sizes).eval(), (torch.randn(1, 2, 8000),)
    graph = trace(module, *inputs)
    assert sum(layer.macs for layer in graph.layers if layer.counting == "fvcore") == fvcore_total(module, inputs)
    assert matrix_macs(graph, OperatorKind.CONV, OperatorKind.LINEAR) == torch_total(module, inputs)  # on a CPU


class Attention(nn.Module):
    def __init__(self, causal=False, kv_heads=4):
        super().__init__()
        self.causal, self.kv_heads = causal, kv_heads

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=self.kv_heads != 4)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_and_causal_masks_are_not_halved(causal):
    shapes = (2, 4, 10, 8), (2, 4, 10, 8), (2, 4, 10, 6)
    module, inputs = on_meta(lambda: Attention(causal), *shapes)
    layer = only(trace(module, *inputs), "aten.scaled_dot_product_attention")
    assert layer.macs == 2 * 4 * 10 * 10 * (8 + 6)
    assert (layer.counting, layer.kind, layer.num_heads, layer.seq_len) == ("handle", "attention", 4, 10)
    assert fvcore_total(Attention(causal), tuple(torch.randn(s) for s in shapes)) == 0


def test_grouped_query_attention_counts_every_query_head():
    module, inputs = on_meta(lambda: Attention(kv_heads=2), (1, 4, 10, 8), (1, 2, 12, 8), (1, 2, 12, 8))
    layer = only(trace(module, *inputs), "aten.scaled_dot_product_attention")
    assert layer.macs == 4 * 10 * 12 * 16
    assert layer.shape["kv_heads"] == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_encoder_layer_hides_nothing(frozen):
    module = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval().requires_grad_(not frozen)
    with torch.no_grad():
        graph = trace(module, torch.randn(2, 10, 16))
    tokens = 2 * 10
    linear = tokens * (16 * 48 + 16 * 16 + 2 * 16 * 32)
    assert matrix_macs(graph, OperatorKind.LINEAR) == linear
    assert matrix_macs(graph, OperatorKind.ATTENTION) == 2 * 10 * 10 * 2 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("factory", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)], ids=["lstm", "gru", "rnn"])
def test_recurrent_layers_count_each_weight_every_step(factory, gates):
    module = factory(5, 7, num_layers=2, bidirectional=True, batch_first=True)
    graph = trace(module, torch.randn(3, 11, 5))
    (layer,) = [layer for layer in graph.layers if layer.kind == OperatorKind.RECURRENT]
    assert layer.macs == 3 * 11 * 2 * gates * 7 * ((5 + 7) + (14 + 7))
    assert layer.parameters == graph.parameters == sum(p.numel() for p in module.parameters())
    sizes = {"batch": 3, "steps": 11, "in": 5, "hidden": 7, "layers": 2, "directions": 2}
    assert layer.shape == sizes | {"layout": 0}


def test_lstm_with_projection():
    graph = trace(nn.LSTM(5, 7, proj_size=3), torch.randn(11, 2, 5))
    assert graph.macs == 11 * 2 * (4 * 7 * (5 + 3) + 7 * 3)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16, 32, dtype=torch.bfloat16))

    def forward(self, x, offsets):
        return torch._grouped_mm(x, self.weight, offs=offsets)


def test_mixture_of_experts_counts_each_row_once():
    with torch.device("meta"):
        module, x = Experts(), torch.empty(24, 16, dtype=torch.bfloat16)
        offsets = torch.empty(4, dtype=torch.int32)
    graph = trace(module, x, offsets)
    layer = only(graph, "aten._grouped_mm")
    assert layer.macs == 24 * 16 * 32
    assert layer.kind == OperatorKind.LINEAR
    assert layer.weight_bytes == 4 * 16 * 32 * 2


def test_mixture_of_experts_of_transformers_is_counted():
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1, "vocab_size": 50}
    widths = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        module = transformers.MixtralForCausalLM(transformers.MixtralConfig(**experts, **widths, use_cache=False))
        tokens = torch.zeros(1, 6, dtype=torch.int64)
    graph = trace(module, tokens)
    assert not graph.refused
    found = sum(layer.macs for layer in graph.layers if "grouped_mm" in layer.operator)
    assert found == 6 * 2 * 3 * 32 * 48  # tokens, experts of each, three matrices of an expert


class Products(nn.Module):
    def forward(self, a, b, broadcast):
        return torch.einsum("bct,bdt->bcd", a, b), torch.matmul(broadcast, b.transpose(1, 2))


def test_einsum_is_exact_and_broadcast_matmul_right():
    inputs = torch.randn(3, 7, 541), torch.randn(3, 143, 541), torch.randn(1, 2, 541)
    graph = trace(Products(), *inputs)
    assert only(graph, "aten.einsum").macs == 3 * 7 * 143 * 541 == 1_624_623
    assert only(graph, "aten.matmul").macs == 3 * 2 * 541 * 143
    assert matrix_macs(graph) == torch_total(Products(), inputs) != fvcore_total(Products(), inputs)


class DeadCode(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.unused(x)
        return self.used(x)


def test_dead_code_runs_and_counts():
    module, x = DeadCode().eval(), torch.randn(2, 4)
    graph = trace(module, x)
    assert graph.macs == 2 * fvcore_total(module, (x,)) == torch_total(module, (x,))
    assert [layer.module for layer in graph.layers] == ["unused", "used"]


class Uncounted(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.register_buffer("window", torch.hann_window(32))

    def forward(self, x):
        x = F.gelu(self.norm(x)).softmax(-1)
        spectrum = torch.stft(x, 32, 8, window=self.window, return_complex=True)
        return torch.istft(spectrum * 2, 32, 8, window=self.window) + torch.fft.rfft(x, n=64).abs().sum()


def test_what_fvcore_leaves_at_zero_is_estimated_by_a_named_formula():
    graph = trace(Uncounted(), torch.randn(3, 64))
    assert only(graph, "aten.layer_norm").macs == 5 * 3 * 64
    assert only(graph, "aten.gelu").flops == 5 * 3 * 64
    assert only(graph, "aten.softmax").flops == 5 * 3 * 64
    frames = 3 * (64 // 8 + 1)
    assert only(graph, "aten.stft").flops == frames * (5 * 32 * 5 + 32)
    assert only(graph, "aten.istft").flops == frames * (5 * 32 * 5 + 3 * 32)
    assert only(graph, "aten.fft_rfft").flops == 3 * 5 * 64 * 6
    assert all(layer.formula for layer in graph.layers if layer.counting == "estimated")
    assert not graph.refused


class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 400)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.small(x), lambda x: self.large(x)[:, :4].clone(), (x,))


def test_of_a_condition_the_costlier_branch_counts():
    graph = trace(Chosen(), torch.randn(2, 4))
    assert graph.macs == 2 * 4 * 400
    assert not graph.refused


PRODUCTS = {
    "mv": (lambda a, b: torch.mv(a, b), (3, 4), (4,)),
    "dot": (lambda a, b: torch.dot(a, b), (4,), (4,)),
    "vec_mat": (lambda a, b: a @ b, (4,), (4, 5)),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c), (5,), (3, 4), (4, 5)),
    "addmv": (lambda a, b, c: torch.addmv(a, b, c), (3,), (3, 4), (4,)),
    "bmm": (lambda a, b: torch.bmm(a, b), (2, 3, 4), (2, 4, 5)),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c), (2, 3, 5), (2, 3, 4), (2, 4, 5)),
    "addbmm": (lambda a, b, c: torch.addbmm(a, b, c), (3, 5), (2, 3, 4), (2, 4, 5)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), (2, 3, 4), (3, 4, 5)),
    "inner": (lambda a, b: torch.inner(a, b), (2, 3, 4), (5, 4)),
    "bilinear": (F.bilinear, (6, 3), (6, 4), (5, 3, 4)),
    "conv3d": (F.conv3d, (1, 2, 4, 4, 4), (3, 2, 2, 2, 2)),
    "unbatched conv": (F.conv2d, (2, 5, 5), (3, 2, 3, 3)),
    "power": (lambda a: torch.linalg.matrix_power(a, 5), (2, 4, 4)),
    "linalg": (lambda a, b: torch.linalg.matmul(a, b), (3, 4), (4, 5)),
    "float8": (
        lambda a, b: torch._scaled_mm(
            a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t(), torch.ones(()), torch.ones(())
        ),
        (16, 32),
        (48, 32),
    ),
    "int8 weights": (
        lambda a, b: torch._weight_int8pack_mm(a.bfloat16(), b.to(torch.int8), torch.ones(5).bfloat16()),
        (3, 4),
        (5, 4),
    ),
    "cell": (lambda x, h, i, w: torch.rnn_tanh_cell(x, h, i, w), (6, 4), (6, 5), (5, 4), (5, 5)),
}
EXPECTED = {
    "mv": 12, "dot": 4, "vec_mat": 20, "addmm": 60, "addmv": 12, "bmm": 120, "baddbmm": 120, "addbmm": 120,
    "tensordot": 120, "inner": 120, "bilinear": 6 * 60, "conv3d": 27 * 48, "unbatched conv": 27 * 18, "cell": 6 * 45,
    "power": 3 * 2 * 64, "linalg": 60, "float8": 16 * 48 * 32, "int8 weights": 60,
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_product_counts_its_multiplications(name):
    function, *shapes = PRODUCTS[name]
    graph = trace(Call(function), *(torch.randn(shape) for shape in shapes))
    assert graph.macs == EXPECTED[name]
    assert not graph.refused
    assert all(layer.shape for layer in graph.layers if layer.kind in MATRIX_KINDS)


OTHERS = {
    "pool": lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2),
    "pool indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "interpolate": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=(5, 5), mode="bilinear"),
    "pad": lambda x: F.pad(x, (1, 1), mode="reflect") if x.dim() == 3 else F.pad(x, (1, 1)),
    "norms": lambda x: F.instance_norm(F.rms_norm(x, (8,))),
    "sorting": lambda x: x.topk(2, dim=-1)[0].sum() + x.sort(-1)[0].mean() + x.cumsum(-1).std(),
    "indexing": lambda x: x[:, torch.tensor([0, 1])].gather(-1, torch.zeros(2, 2, 8, 3, dtype=torch.long)).roll(1, -1),
    "activations": lambda x: F.silu(F.gelu(F.softplus(F.mish(F.hardswish(F.elu(x)))))).softmax(1).log_softmax(-1),
    "comparison": lambda x: torch.where(x > 0, x, -x).clamp(max=1).masked_fill(x.isnan(), 0),
    "logic": lambda x: (x > 0) & (x < 1) | ~(x == 0),
    "making": lambda x: x + torch.arange(8.0) * torch.ones_like(x) + torch.full((8,), 2.0) + torch.eye(8),
    "complex": lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=(-2, -1)) * torch.polar(x.abs(), x), dim=(-2, -1)).real,
    "inverse functions": lambda x: torch.special.expit(torch.arcsinh(x)) + torch.special.xlogy(x, x),
    "noise": lambda x: F.gumbel_softmax(x) + torch.randint_like(x, 3) + x[..., torch.randperm(8)],
    "warp": lambda x: F.grid_sample(x, F.affine_grid(torch.ones(2, 2, 3), x.shape, align_corners=False)),
    "antialiased": lambda x: F.interpolate(x, size=(3, 5), mode="bilinear", antialias=True),
    "unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "order": lambda x: x.quantile(0.5) + torch.msort(x).nanmean() + F.pairwise_distance(x, x).sum(),
    "fake quantisation": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "unfold": lambda x: F.fold(F.unfold(x, 2), (8, 8), 2),
    "stack": lambda x: torch.stack([x.flip(-1), x.repeat(1, 1, 1, 1), x.tril()]).flatten(1, 2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_ordinary_operators_are_estimated_or_moved(name):
    graph = trace(Call(OTHERS[name]), torch.randn(2, 3, 8, 8))
    assert not graph.refused
    assert all(layer.flops > 0 for layer in graph.layers if layer.counting in ("estimated", "fvcore"))
