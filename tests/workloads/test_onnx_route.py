"""ONNX files: the rebuilt module computes and counts what the exported one does, and bad files are explained."""

import sys

import pytest
import torch
from torch import nn

import workloads
from tests.workloads.tracing_help import matrix_macs, trace
from workloads import WorkloadError, load_onnx, trace_file
from workloads.graph import OperatorKind

onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.filterwarnings("ignore")


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.PReLU())
        self.down = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding="same", groups=4), nn.SiLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.GroupNorm(2, 8), nn.Hardswish())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.stem(x)
        z = nn.functional.interpolate(self.up(self.down(y)), size=y.shape[-2:], mode="bilinear")
        return self.head((y + z).mean((2, 3))).log_softmax(-1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("table", torch.rand(1, 12, 16))

    def forward(self, tokens):
        steps = tokens.shape[1]
        seen = torch.ones(steps, steps, dtype=torch.bool, device=tokens.device).triu(1)
        return self.encoder(self.embedding(tokens) + self.table[:, :steps], mask=seen, is_causal=False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(16, 8, batch_first=True)

    def forward(self, x):
        return self.gru(self.lstm(x)[0])[0]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(8, 5, nonlinearity="relu", bias=False, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


class Audio(nn.Module):
    """Gated convolutions between an encoder and a decoder, chunked and joined again."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv1d(1, 16, 16, stride=8, bias=False)
        self.gate = nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(16, 32, 3), nn.GLU(1), nn.GroupNorm(1, 16))
        self.decoder = nn.ConvTranspose1d(16, 1, 16, stride=8, bias=False)

    def forward(self, x):
        y = self.encoder(x)
        chunks = y.unfold(2, 8, 4)
        scale = torch.einsum("bcnk,bcnl->bnkl", chunks, chunks).softmax(-1).sum((1, 2, 3), keepdim=True)
        return self.decoder(y * self.gate(y)) * scale[:, 0]


CASES = {
    "convolutional": (Convolutional, lambda: torch.rand(2, 3, 32, 32)),
    "tokens": (Tokens, lambda: torch.randint(0, 50, (2, 12))),
    "recurrent": (Recurrent, lambda: torch.rand(3, 7, 6)),
    "plain": (Plain, lambda: torch.rand(3, 7, 8)),
    "audio": (Audio, lambda: torch.rand(2, 1, 264)),
}


def export(module, inputs, path, *, dynamo=False, opset=18, **options):
    torch.onnx.export(module, inputs, path, dynamo=dynamo, opset_version=opset, verbose=False, **options)
    return path


def made(factory):
    torch.manual_seed(0)
    module = factory().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.05, 0.4)
    return module


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (False, 20), (True, 18)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_rebuilt_module_computes_and_counts_what_the_original_does(case, dynamo, opset, tmp_path):
    factory, draw = CASES[case]
    module, x = made(factory), draw()
    path = export(module, (x,), tmp_path / "model.onnx", dynamo=dynamo, opset=opset)
    rebuilt, examples = load_onnx(path, weights=True)
    assert [(tuple(e.shape), e.dtype) for e in examples] == [(tuple(x.shape), x.dtype)]
    with torch.no_grad():
        assert torch.allclose(rebuilt(x), module(x), rtol=1e-4, atol=1e-5)
    original, graph = trace(module, x), trace_file(path, cache=False)
    if case == "tokens":  # by the names of nodes, or by their metadata
        modules = {layer.module for layer in graph.layers}
        assert {"embedding", "encoder.layers.0.self_attn", "encoder.layers.1.linear2"} <= modules
    unrolled = 3 * 5 * 5 if case == "plain" and dynamo else 0  # steps written out, the first without its zero state
    assert matrix_macs(graph) == matrix_macs(original) - unrolled
    assert not graph.refused
    assert graph.parameters - original.parameters == {
        "convolutional": -2 * 8,  # the batch norm's scale and shift go into the convolution's own
        "tokens": 0 if dynamo else 12 * 16,  # the older exporter does not say that the table is a buffer
    }.get(case, 0)


def hf(name):
    import transformers

    small = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    match name:
        case "vit":
            net = transformers.ViTModel(transformers.ViTConfig(image_size=64, **small), add_pooling_layer=False)
            return net, torch.rand(1, 3, 64, 64)
        case "bert":
            net = transformers.BertModel(transformers.BertConfig(vocab_size=300, **small), add_pooling_layer=False)
            return net, torch.randint(0, 300, (1, 24))
        case "gpt2":
            config = transformers.GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=4, use_cache=False)
            return transformers.GPT2LMHeadModel(config), torch.randint(0, 300, (1, 24))


class FirstOutput(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0]


@pytest.mark.parametrize(("name", "dynamo"), [("vit", False), ("bert", False), ("gpt2", True)])
def test_transformers_networks_count_alike(name, dynamo, tmp_path):
    """GPT-2's word table is also its last matrix, and counts once."""
    pytest.importorskip("transformers")
    net, x = hf(name)
    module = made(lambda: FirstOutput(net))
    graph = trace_file(export(module, (x,), tmp_path / "m.onnx", dynamo=dynamo, opset=18), cache=False)
    original = trace(module, x)
    assert matrix_macs(graph) == matrix_macs(original)
    assert graph.parameters == original.parameters


class Tied(nn.Module):
    """The word table is also the last matrix, which PyTorch's older exporter writes anew, transposed."""

    def __init__(self):
        super().__init__()
        self.words, self.body, self.last = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False)
        self.last.weight = self.words.weight

    def forward(self, tokens):
        return self.last(self.body(self.words(tokens)))


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_tied_table_counts_once(dynamo, tmp_path):
    module, tokens = made(Tied), torch.zeros(2, 5, dtype=torch.int64)
    path = export(module, (tokens,), tmp_path / "m.onnx", dynamo=dynamo)
    graph = trace_file(path, cache=False)
    assert graph.parameters == 30 * 8 + 8 * 8 + 8
    assert graph.macs == trace(module, tokens).macs
    rebuilt, _ = load_onnx(path, weights=True)
    assert torch.allclose(rebuilt(tokens), module(tokens), rtol=1e-4)


def test_a_batch_norm_may_share_its_zeros_with_a_bias(tmp_path):
    """The older exporter stores weights of equal values once, running statistics among them."""
    module, x = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval(), torch.rand(1, 4, 8, 8)
    nn.init.zeros_(module[2].bias)
    graph = trace_file(export(module, (x,), tmp_path / "m.onnx"), cache=False)
    assert matrix_macs(graph) == 36 * 4 * 36


def test_a_mask_computed_by_the_exporter_is_no_parameter(tmp_path):
    class Causal(nn.Module):
        def forward(self, q, k):
            return nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)

    inputs = torch.rand(1, 4, 6, 8), torch.rand(1, 2, 6, 8)
    graph = trace_file(export(Causal(), inputs, tmp_path / "m.onnx", dynamo=True), cache=False)
    assert (graph.parameters, matrix_macs(graph)) == (0, 2 * 4 * 36 * 8)


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.conv1(x).relu()


class Shortcuts(nn.Module):
    """Residual blocks in containers, as ResNet names them: layer1.0.conv1."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Shortcut(), Shortcut(), Shortcut())
        self.downsample = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU())

    def forward(self, x):
        return self.downsample(self.layer1(x))


def test_layers_keep_their_modules(tmp_path):
    module, x = made(Shortcuts), torch.rand(1, 4, 8, 8)
    original = [layer.module for layer in trace(module, x).layers if layer.kind == OperatorKind.CONV]
    graph = trace_file(export(module, (x,), tmp_path / "shortcuts.onnx", opset=17), cache=False)
    assert [layer.module for layer in graph.layers if layer.kind == OperatorKind.CONV] == original
    assert original[0] == "layer1.0.conv1"
    assert graph.name == "shortcuts"
    assert len(graph.edges) == len(graph.layers) - 1 + 2  # a chain, and the shortcuts of the second and third block
    assert workloads.build_segments(graph, segment_size=4).segments


def test_a_training_step_of_a_file(tmp_path):
    module, x = made(Audio), torch.rand(1, 1, 264)
    rebuilt, examples = load_onnx(export(module, (x,), tmp_path / "m.onnx"))
    graph = workloads.trace_training(rebuilt, examples, cache=False)
    original = workloads.trace_training(module, (x,), cache=False)
    assert graph.mode == "train"
    assert matrix_macs(graph) == matrix_macs(original)


def test_nothing_is_computed_and_weights_need_not_be_there(tmp_path):
    module, x = made(lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))), torch.rand(2, 64)
    path = export(module, (x,), tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    (tmp_path / "weights.bin").unlink()
    rebuilt, examples = load_onnx(path)
    assert all(tensor.is_meta for tensor in (*rebuilt.parameters(), *examples))
    assert trace_file(path, cache=False).macs == 2 * 2 * 64 * 64
    with pytest.raises(WorkloadError, match=r"'weights.bin', which is not there"):
        load_onnx(path, weights=True)


TEXT = '<ir_version: 8, opset_import: ["" : 18{more}]> agraph ({inputs}) => ({outputs}) {{ {body} }}'


def write(path, body, *, inputs="float[2,4] x", outputs="float y", more=""):
    model = onnx.parser.parse_model(TEXT.format(inputs=inputs, outputs=outputs, body=body, more=more))
    onnx.save(model, str(path))
    return path


def test_open_sizes_are_asked_for_by_name(tmp_path):
    path = write(
        tmp_path / "m.onnx",
        "y = MatMul(x, z)",
        inputs="float[batch, 4] x, float[4, width] z",
        outputs="float[batch, width] y",
    )
    with pytest.raises(WorkloadError, match=r"leaves the size 'batch' of input 'x' open \(batchx4\)"):
        trace_file(path)
    assert trace_file(path, ["3x4", "4x7"], cache=False).macs == 3 * 4 * 7
    assert workloads.trace_factory(str(path), ["3x4", "4x7"], cache=False).input_shapes == ((3, 4), (4, 7))
    for shapes, message in [
        (["3x4"], "has 2 inputs, 1 shapes were given"),
        (["3x5", "4x7"], "'3x5' does not fit input 'x'"),
        (["3x4", "4x7:int64"], "is float32, not int64"),
        (["3,4", "4x7"], "'3,4' is not an input shape"),
    ]:
        with pytest.raises(WorkloadError) as caught:
            trace_file(path, shapes)
        assert message in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    ("inputs", "message"),
    [("float[1099511627776,1099511627776] x", "cannot be made"), ("string[2] x", "STRING cannot be traced")],
)
def test_an_input_that_cannot_be_made_is_refused_with_the_file(inputs, message, tmp_path):
    path = write(tmp_path / "m.onnx", "y = Identity(x)", inputs=inputs)
    with pytest.raises(WorkloadError, match=rf"m\.onnx: .*{message}"):
        trace_file(path)


def test_one_open_size_has_one_value(tmp_path):
    path = write(tmp_path / "m.onnx", "y = Add(x, z)", inputs="float[n] x, float[n] z", outputs="float[n] y")
    with pytest.raises(WorkloadError, match="'4' does not fit input 'z'"):
        trace_file(path, ["3", "4"])


@pytest.mark.parametrize(
    ("body", "more", "messages", "hint"),
    [
        ("a = Relu(x) b = NonMaxSuppression(a, a) y = Det(b)", "", ["NonMaxSuppression (1x"], "other operators"),
        ("a = custom.Fused(x) y = NonMaxSuppression(a, a)", ', "custom" : 1',
         ["custom::Fused (1x", "NonMaxSuppression (1x"], "fusions"),
        ("y = If(x) <then_branch = g () => (float z) { z = Constant<value_float = 1.0>() }, "
         "else_branch = h () => (float z) { z = Constant<value_float = 2.0>() }>", "", ["If (1x, first"], "loops"),
        ("y = Add(x, nowhere)", "", ["reads 'nowhere'"], "checker"),
        ("a = Constant<value_ints = [3, 5]>() y = Reshape(x, a)", "", ["(Reshape) cannot be computed"], "shapes"),
        ("a = Cast<to = 7>(x) y = Reshape(x, a)", "", ["input 'a' has to be known"], "fixed sizes"),
        ("y = NonZero(x)", "", ["(NonZero)", "depends on data"], "torch.where"),
        ("y = Conv(x)", "", ["(Conv) cannot be computed"], "checker"),
        ("y = Cast(x)", "", ["attribute 'to' is missing"], "checker"),
        ("y = Cast<to = 8>(x)", "", ["STRING cannot be traced"], "whole bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_explained(body, more, messages, hint, tmp_path):
    path = write(tmp_path / "model.onnx", body, more=more)
    with pytest.raises(WorkloadError) as caught:
        trace_file(path)
    assert "model.onnx" in caught.value.message
    assert all(message in caught.value.message for message in messages), caught.value.message
    assert hint in caught.value.hint, caught.value.hint


def test_a_place_that_is_an_input_is_looked_up(tmp_path):
    path = write(
        tmp_path / "m.onnx", "y = Gather<axis = 1>(x, i)", inputs="float[2,4] x, int64 i", outputs="float[2] y"
    )
    assert trace_file(path, cache=False).layers[0].output_shape == (2, 1)
    module, _ = load_onnx(path, weights=True)
    assert module(torch.arange(8.0).reshape(2, 4), torch.tensor(2)).tolist() == [2.0, 6.0]


def test_a_file_without_operators_says_so(tmp_path):
    onnx.save(onnx.parser.parse_model(TEXT.format(inputs="", outputs="", body="", more="")), str(tmp_path / "m.onnx"))
    with pytest.raises(WorkloadError, match="holds no operators"):
        trace_file(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08", bytes(range(256))])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(WorkloadError, match="is not an ONNX model"):
        trace_file(tmp_path / "m.onnx")


def test_a_truncated_file_is_refused(tmp_path):
    whole = export(made(Convolutional), (torch.rand(1, 3, 32, 32),), tmp_path / "m.onnx").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(WorkloadError):
            trace_file(tmp_path / "cut.onnx")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(WorkloadError, match="there is no file"):
        trace_file(tmp_path / "m.onnx")
    with pytest.raises(WorkloadError, match="is not a model file"):
        trace_file(tmp_path / "m.tflite")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", "y = Relu(x)")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WorkloadError) as caught:
        trace_file(path)
    assert "chipfront[onnx]" in caught.value.hint


def test_quantised_weights_are_parameters_and_their_products_count(tmp_path):
    numbers = {
        "w": ((8, 4), onnx.TensorProto.INT8),
        "s": ((), onnx.TensorProto.FLOAT),
        "q": ((), onnx.TensorProto.INT8),
    }
    path = write(
        tmp_path / "m.onnx",
        "a = QuantizeLinear(x, s, q) b = DequantizeLinear(a, s, q) c = DequantizeLinear(w, s, q) "
        "y = Gemm<transB = 1>(b, c)",
    )
    model = onnx.load(path)
    for name, (shape, kind) in numbers.items():
        values = [2] * (shape[0] * shape[1]) if shape else [1]
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, shape, values))
    onnx.save(model, path)
    graph = trace_file(path, cache=False)
    assert (matrix_macs(graph), graph.parameters) == (2 * 8 * 4, 32)
    module, _ = load_onnx(path, weights=True)
    assert torch.equal(module(torch.full((2, 4), 3.0)), torch.full((2, 8), 12.0))
    weight = model.graph.initializer[0]  # exporters of quantised models may write it as a constant
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    del model.graph.initializer[0]
    onnx.save(model, path)
    assert trace_file(path, cache=False).parameters == 32


def test_masks_of_any_size_are_computed_as_in_pytorch(tmp_path):
    """Small shapes are folded; a large mask is made of operators, which count, and takes no memory here."""
    path = write(
        tmp_path / "m.onnx",
        "n = Constant<value_ints = [40000, 40000]>() ones = ConstantOfShape(n) mask = Trilu(ones) "
        "s = ReduceSum(mask) y = Add(x, s)",
    )
    graph = trace_file(path, cache=False)
    assert {layer.operator for layer in graph.layers} >= {"aten.full.default", "aten.triu.default"}


def test_the_command_line_takes_a_file(tmp_path):
    from click.testing import CliRunner

    from dse.cli import cli

    path = write(tmp_path / "m.onnx", "y = MatMul(x, z)", inputs="float[n, 4] x, float[4, 5] z")
    done = CliRunner().invoke(cli, ["trace", str(path), "--input", "3x4", "--input", "4x5", "--json"])
    assert done.exit_code == 0, done.output
    assert '"macs": 60' in done.stdout
