"""Networks that nobody named, one of each kind: no operator refused, MACs as by hand, every edge forward and real."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import workloads
from tests.workloads.tracing_help import Call, matrix_macs, producers, torch_total, trace
from workloads import OperatorKind, WorkloadError


def ids(*shape):
    return torch.zeros(shape, dtype=torch.int64)


class Tagger(nn.Module):
    """Bidirectional LSTM, then a GRU, on sequences that are padded, packed or plain."""

    def __init__(self, packed):
        super().__init__()
        self.packed, self.embed = packed, nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.head = nn.GRU(12, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, words, lengths=None):
        x = self.embed(words)
        if self.packed:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = self.lstm(x)
        if self.packed:
            x, _ = pad_packed_sequence(x, batch_first=True, total_length=words.shape[1])
        return self.head(self.gru(x)[0])


STEP = 2 * 4 * 6 * (8 + 6) + 2 * 4 * 6 * (12 + 6) + 3 * 5 * (12 + 5) + 5 * 3  # of one word


class Unrolled(nn.Module):
    """A cell in a Python loop: one layer a step, all of one weight."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Experts(nn.Module):
    """Mixture of experts in which every expert sees every token and a gate weighs them."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).topk(2)
        share = torch.zeros_like(x[..., :4]).scatter(-1, chosen, weight)
        return torch.einsum("ebsd,bse->bsd", torch.stack([expert(x) for expert in self.experts]), share)


class Residual3d(nn.Module):
    """A block of R3D (arXiv 1711.11248): two 3 x 3 x 3 convolutions beside a projection."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm3d(outside),
            nn.ReLU(inplace=True),
            nn.Conv3d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm3d(outside),
        )
        self.skip = nn.Sequential(nn.Conv3d(inside, outside, 1, stride, bias=False), nn.BatchNorm3d(outside))

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


def r3d():
    stem = nn.Conv3d(3, 4, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    return nn.Sequential(stem, Residual3d(4, 8, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5))


class Spectral(nn.Module):
    """Complex weights: a linear map and a convolution, and mixing by Fourier transform between them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8, dtype=torch.complex64)
        self.mix = nn.Parameter(torch.randn(9, dtype=torch.complex64))

    def forward(self, x):
        x = torch.fft.irfft(torch.fft.rfft(x) * self.mix)
        return self.linear(torch.view_as_complex(x.reshape(*x.shape[:-1], 8, 2))).abs()


class Scan(nn.Module):
    """A diagonal state space with input-dependent steps (arXiv 2312.00752), scanned in Python."""

    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Linear(6, 6 + 2 * 4), nn.Linear(6, 6)
        self.decay = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):  # [batch, steps, 6]
        delta, b, c = self.project(x).split([6, 4, 4], dim=-1)
        a = torch.exp(F.softplus(delta).unsqueeze(-1) * -self.decay.exp())
        state, outputs = x.new_zeros(x.shape[0], 6, 4), []
        for t in range(x.shape[1]):
            state = a[:, t] * state + x[:, t].unsqueeze(-1) * b[:, t].unsqueeze(1)
            outputs.append((state @ c[:, t].unsqueeze(-1)).squeeze(-1))
        return self.out(torch.stack(outputs, 1))


class GraphNet(nn.Module):
    """Messages along edges, summed at their targets (index_add) and averaged over a graph's nodes (scatter_reduce)."""

    def __init__(self):
        super().__init__()
        self.message, self.update = nn.Linear(12, 6), nn.Linear(12, 6)

    def forward(self, nodes, edges, graph):
        source, target = edges
        sent = self.message(torch.cat([nodes[source], nodes[target]], -1)).relu()
        received = torch.zeros_like(nodes).index_add(0, target, sent)
        nodes = self.update(torch.cat([nodes, received], -1))
        return nodes.new_zeros(2, 6).scatter_reduce(0, graph[:, None].expand(-1, 6), nodes, "mean")


class Denoiser(nn.Module):
    """A level of a diffusion U-Net (arXiv 2006.11239): time embedding, GroupNorm, attention over pixels, skip."""

    def __init__(self):
        super().__init__()
        self.time, self.down, self.up = nn.Linear(8, 16), nn.Conv2d(4, 16, 3, 2, 1), nn.Conv2d(20, 4, 3, padding=1)
        self.norm, self.qkv, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x, t):
        frequency = torch.exp(torch.arange(4, device=x.device) * -1.0)
        phase = t[:, None] * frequency
        y = self.down(x) + self.time(torch.cat([phase.sin(), phase.cos()], -1))[:, :, None, None]
        q, k, v = (
            self.qkv(F.silu(self.norm(y))).flatten(2).transpose(1, 2).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(y.shape)
        y = F.interpolate(y + self.out(mixed), scale_factor=2.0)
        return self.up(torch.cat([x, y], 1))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return (x @ weight).square()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


class OwnGradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return Square.apply(x, self.weight)


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


class Thrice(nn.Module):
    """One block called three times."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        return self.block(self.block(self.block(x)))


class Early(nn.Module):
    """Control flow by torch.cond inside a loop over modules; nested outputs and keywords."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.deep = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))

    def forward(self, x, *, mask=None):
        kept = []
        for layer in self.layers:
            x = torch.cond(x.mean() > 0, lambda y, layer=layer: layer(y), lambda y: self.deep(y), (x,))
            kept.append({"x": x, "none": None})
        return {"kept": kept, "last": (x if mask is None else x * mask, 3)}


class Running(nn.Module):
    """A buffer that forward updates: a moving average and a count."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.linear(x - self.mean)


def with_hook():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[0].register_forward_hook(lambda module, inputs, output: output.relu())
    module[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return module


CONV = 27 * 8 * (4 * 2 * 4 * 4 + 8 * 2 * 4 * 4) + 4 * 8 * 2 * 4 * 4  # R3D's block on 4 x 4 x 8 x 8 -> 8 x 2 x 4 x 4
NETS = {  # module, inputs, keywords, MACs of matrix work
    "recurrent": (lambda: Tagger(False), (ids(3, 7),), {}, 21 * STEP),
    "LSTM cell in a loop": (lambda: Unrolled(nn.LSTMCell(4, 6)), (torch.randn(2, 5, 4),), {}, 10 * 24 * (4 + 6)),
    "GRU cell in a loop": (lambda: Unrolled(nn.GRUCell(4, 6)), (torch.randn(2, 5, 4),), {}, 10 * 18 * (4 + 6)),
    "mixture of experts": (Experts, (torch.randn(2, 3, 8),), {}, 6 * (8 * 4 + 4 * 2 * 8 * 16 + 4 * 8)),
    "3-D convolution": (r3d, (torch.randn(1, 3, 4, 16, 16),), {}, 4 * 64 * 4 * 3 * 147 + CONV + 8 * 5),
    "encoder-decoder": (
        lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
        (torch.randn(2, 5, 8), torch.randn(2, 3, 8)),
        {},
        2 * (5 * (4 * 64 + 256) + 2 * 25 * 8 + 3 * (4 * 64 + 2 * 64 + 256) + 2 * 9 * 8 + 5 * 2 * 64 + 2 * 15 * 8),
    ),
    "complex-valued": (Spectral, (torch.randn(2, 3, 16),), {}, 4 * 6 * 64),
    "tied three times": (Thrice, (torch.randn(2, 6),), {}, 3 * 2 * 36),
    "state space": (Scan, (torch.randn(2, 5, 6),), {}, 10 * (6 * 14 + 6 * 4 + 36)),
    "graph network": (GraphNet, (torch.randn(5, 6), ids(2, 9), ids(5)), {}, 9 * 72 + 5 * 72),
    "diffusion": (
        Denoiser,
        (torch.randn(2, 4, 8, 8), torch.rand(2)),
        {},
        2 * (8 * 16 + 16 * 16 * 36 + 16 * 16 * 64 + 2 * 16 * 16 * 16 + 64 * 4 * 180),
    ),
    "gradient of its own": (OwnGradient, (torch.randn(3, 4),), {}, 3 * 24),
    "checkpointed": (Recomputed, (torch.randn(3, 4),), {}, 3 * 3 * 16),
    "conditions, nested outputs": (Early, (torch.randn(3, 4),), {"mask": torch.ones(4)}, 2 * 3 * 64),
    "half precision": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)).half(),
        (torch.randn(1, 2, 8, 8).half(),),
        {},
        4 * 36 * 18 + 144 * 3,
    ),
    "bfloat16": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16).bfloat16(),
        (torch.randn(5, 2, 8).bfloat16(),),
        {},
        10 * (4 * 64 + 256) + 2 * 2 * 25 * 8,
    ),
    "float64": (
        lambda: nn.Bilinear(3, 4, 5).double(),
        (torch.randn(2, 3).double(), torch.randn(2, 4).double()),
        {},
        120,
    ),
    "hooks": (with_hook, (torch.randn(3, 4),), {}, 2 * 3 * 16),
    "weight norm": (lambda: weight_norm(nn.Conv1d(4, 6, 3)), (torch.randn(2, 4, 9),), {}, 2 * 7 * 6 * 12),
    "running buffers": (Running, (torch.randn(3, 4),), {}, 3 * 16),
    "attention in evaluation": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        (torch.randn(2, 5, 8),) * 3,
        {"need_weights": True},
        2 * (5 * 4 * 64 + 2 * 25 * 8),
    ),
    "transposed and grouped": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), nn.Conv2d(6, 6, 3, groups=6)),
        (torch.randn(1, 4, 5, 5),),
        {},
        25 * 4 * 3 * 16 + 6 * 64 * 9,
    ),
    "embedding bag": (
        lambda: nn.Sequential(nn.EmbeddingBag(20, 6, mode="mean"), nn.Linear(6, 2)),
        (ids(3, 4),),
        {},
        3 * 12,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_that_nobody_named_is_counted_whole(name):
    factory, inputs, keywords, macs = NETS[name]
    module = factory()
    graph = trace(module, *inputs, example_kwargs=keywords)
    assert not graph.refused
    assert matrix_macs(graph) == macs
    assert graph.parameters == sum(p.numel() for p in module.parameters())
    assert graph.weight_bytes <= sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
    producer, consumer = graph.edges.T
    assert (producer < consumer).all()
    assert (graph.edge_bytes > 0).all()
    read = {}
    for index, size in zip(consumer.tolist(), graph.edge_bytes.tolist(), strict=True):
        read[index] = read.get(index, 0) + size
    for index, layer in enumerate(graph.layers):
        flowing_through = layer.output_bytes if layer.operator.split(".")[1].endswith("_") else 0
        assert read.get(index, 0) <= layer.input_bytes + flowing_through, layer.name


@dataclass(slots=True)
class Answer:
    states: object
    own: object = None


class Cached(nn.Module):
    """Returns objects of classes that nobody registered: a cache, and a distribution whose parameters are checked."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        answer = Answer([{"keys": y}])
        answer.own = answer
        return {"cache": answer, "law": torch.distributions.Normal(y, y.exp())}, x


def test_a_model_may_return_objects_of_any_class():
    module = Cached()
    graph = trace(module, torch.randn(3, 4))
    assert [layer.operator for layer in graph.layers][:2] == ["aten.linear.default", "aten.exp.default"]
    assert not module._forward_hooks
    assert torch.distributions.Distribution._validate_args


def with_sparse_buffer():
    module = Call(lambda x: x)
    module.register_buffer("adjacency", torch.eye(4).to_sparse())
    module.function = lambda x: module.adjacency @ x
    return module


def quantised():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})


HIDDEN = {  # what hides its operators or its shapes: module, message, hint
    "sparse weight": (with_sparse_buffer, "adjacency is a tensor of torch.sparse_coo", "dense"),
    "scripted": (lambda: torch.jit.script(nn.ReLU()), "a TorchScript module cannot be traced", "before torch.jit"),
    "scripted within": (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4))), "holds TorchScript", "before"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "0.weight has no shape yet", "call it once"),
    "quantised": (quantised, "quantised weights", "before quantisation"),
    "derivative": (lambda: Call(torch.func.grad(lambda x: x.sum())), "torch.func", "--mode train"),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.filterwarnings("ignore")
def test_what_hides_its_operators_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path))
    factory, message, hint = HIDDEN[name]
    for cache in (False, True):  # the key in the cache is made before the trace
        with pytest.raises(WorkloadError, match=message) as caught:
            workloads.trace(factory(), torch.randn(4, 4), cache=cache)
        assert hint in caught.value.hint


def test_an_argument_of_a_class_that_torch_does_not_know_is_named():
    with pytest.raises(WorkloadError, match=r"an argument is a .*Answer") as caught:
        trace(Call(lambda answer: answer.states), Answer(torch.randn(2)))
    assert "register_dataclass" in caught.value.hint


def test_the_module_of_an_exported_program_is_a_module():
    program = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),))
    assert matrix_macs(trace(program.module(), torch.randn(2, 4))) == 32


def test_a_packed_sequence_is_refused_with_its_line_and_what_to_write():
    with pytest.raises(WorkloadError, match=r"a size depends on the values of a tensor.*in module lstm") as caught:
        trace(Tagger(packed=True), ids(3, 7), torch.tensor([7, 5, 2]))
    assert "`x, _ = self.lstm(x)`" in caught.value.message
    assert "padded" in caught.value.hint


def test_of_a_condition_the_deep_branch_counts_in_each_turn_of_the_loop():
    graph = trace(Early(), torch.randn(3, 4))
    assert [weight.partition(".")[0] for layer in graph.layers for weight in layer.weights] == ["deep"] * 8
    assert graph.aliases["cond (the costlier branch is counted)"] == 2


def test_a_cell_in_a_loop_is_a_chain_through_its_state():
    graph = trace(Unrolled(nn.GRUCell(4, 6)), torch.randn(2, 3, 4))
    cells = [layer for layer in graph.layers if layer.kind == OperatorKind.RECURRENT]
    assert [set(layer.weights) for layer in cells] == [
        {"cell.weight_ih", "cell.weight_hh", "cell.bias_ih", "cell.bias_hh"}
    ] * 3
    assert producers(graph, cells[2].name) == {cells[1].name: 2 * 6 * 4}


@pytest.mark.parametrize("parametrize", [weight_norm, spectral_norm, orthogonal])
def test_a_parametrised_weight_is_computed_each_time_it_is_used(parametrize):
    module = parametrize(nn.Linear(6, 6))
    graph = trace(nn.Sequential(module, nn.ReLU()), torch.randn(2, 6))
    assert not graph.refused
    (linear,) = [
        layer for layer in graph.layers if layer.operator == "aten.linear.default" and layer.input_bytes == 192
    ]
    assert linear.macs == 2 * 36
    assert graph.parameters == sum(p.numel() for p in module.parameters())


def test_linear_layers_of_eight_bit_integers_count_as_any():
    x, weight = torch.ones(32, 64, dtype=torch.int8), torch.ones(64, 16, dtype=torch.int8)
    graph = trace(Call(lambda x, w: torch._int_mm(x, w).float() * 0.1), x, weight)
    assert (matrix_macs(graph), graph.refused) == (32 * 64 * 16, {})


# --- what runs is what is counted, whatever is put together ---


class Attend(nn.Module):
    """Attention written out, which torch's own counter sees on the CPU too."""

    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.mT / 2).softmax(-1) @ v


class Around(nn.Module):
    def __init__(self, inner, join):
        super().__init__()
        self.inner, self.join = inner, join

    def forward(self, x):
        y = self.inner(x)
        return x + y if self.join == "add" else torch.cat([x, y], -2)


@st.composite
def nets(draw):
    """A net of up to six random modules on [batch, rows, width], some shared, residual or concatenated."""
    width, modules = draw(st.integers(2, 6)), []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["linear", "conv", "attend", "norm", "act", "around", "again", "grouped", "outer"]))
        if kind == "linear":
            new = draw(st.integers(2, 6))
            modules.append(nn.Linear(width, new, bias=draw(st.booleans())))
            width = new
        elif kind == "conv":  # over the width, rows as channels do not work with a concatenation: transpose around
            modules.append(OverWidth(nn.Conv1d(width, width, draw(st.sampled_from([1, 3])), padding="same")))
        elif kind == "grouped":
            modules.append(OverWidth(nn.ConvTranspose1d(width, width, 3, padding=1, groups=width)))
        elif kind == "attend":
            modules.append(Attend(width))
        elif kind == "norm":
            modules.append(nn.LayerNorm(width))
        elif kind == "act":
            modules.append(draw(st.sampled_from([nn.ReLU(inplace=True), nn.GELU(), nn.Softmax(-1), nn.Dropout()])))
        elif kind == "around":
            modules.append(Around(nn.Linear(width, width), draw(st.sampled_from(["add", "cat"]))))
        elif kind == "outer":
            modules.append(Call(lambda x: torch.einsum("bij,bkj->bik", x, x) @ x))
        elif modules and not isinstance(modules[-1], nn.Linear):
            modules.append(modules[-1])
    return nn.Sequential(nn.Identity(), *modules), (
        draw(st.integers(1, 3)),
        draw(st.integers(2, 5)),
        modules_in(modules, width),
    )


class OverWidth(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.mT).mT


def modules_in(modules, width):
    """Width of the first module's input: that of the first linear layer, or the one that never changed."""
    for module in modules:
        if isinstance(module, nn.Linear):
            return module.in_features
    return width


@given(nets())
@settings(deadline=None, max_examples=25)
def test_random_nets_count_what_torch_counts_when_they_run(net):
    module, shape = net
    module.eval()
    graph = trace(module, torch.randn(shape))
    assert not graph.refused
    assert matrix_macs(graph) == torch_total(module, (torch.randn(shape),))
    assert graph.parameters == sum(p.numel() for p in module.parameters())
