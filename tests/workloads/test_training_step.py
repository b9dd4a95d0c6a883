"""A training step against real ones: operators, FLOPs and memory of eager PyTorch on this processor."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from functools import reduce

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import workloads
from tests.workloads.tracing_help import matrix_macs
from tests.workloads.training_help import OPTIMIZERS, allocated_peak
from workloads import WorkloadError, WorkloadGraph, peak_memory, trace_training
from workloads.graph import Role
from workloads.memory import live_bytes_by_role
from workloads.models.conv_tasnet import ConvTasNet
from workloads.models.htdemucs import HTDemucs


class Block(nn.Module):
    """A residual block: convolutions, batch norm, a sum that keeps its input alive."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.second(torch.relu(self.norm(self.first(x))))).relu()


class Sequence(nn.Module):
    """A recurrent net that looks its tokens up and answers by the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 24)
        self.rnn = nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.table(tokens))[0][:, -1])


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), Block(16), Block(16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 10)
    )


def transformer(dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=dropout, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 12, 8, stride=4, padding=2), nn.GroupNorm(3, 12), nn.GELU(), nn.ConvTranspose1d(12, 2, 8, stride=4)
    )


def htdemucs() -> nn.Module:
    return HTDemucs(channels=8, t_layers=2, t_hidden_scale=2.0, use_train_segment=False)


NETS = {
    "residual": (residual, (2, 3, 32, 32)),
    "transformer": (transformer, (2, 20, 48)),
    "transformer, dropout": (lambda: transformer(0.1), (2, 20, 48)),
    "autoencoder": (autoencoder, (3, 2, 6400)),
    "recurrent": (Sequence, None),
    "htdemucs": (htdemucs, (1, 2, 8820)),
    "conv-tasnet": (ConvTasNet, (1, 1, 4000)),
}


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    factory, shape = NETS[name]
    return factory(), (torch.randint(50, (3, 12)),) if shape is None else (torch.randn(shape),)


def real_step(module: nn.Module, inputs, optimizer: str = "adam", *, mode=None, loss=None) -> None:
    """Run the second step of a training: `mode` sees it."""
    module.train()
    stepper = OPTIMIZERS[optimizer](module.parameters(), lr=1e-6)
    for seen in (nullcontext(), mode or nullcontext()):
        stepper.zero_grad()
        output = module(*inputs)
        outputs = [output] if isinstance(output, torch.Tensor) else output
        targets = [torch.zeros_like(t) for t in outputs]
        del output, outputs
        with seen:
            output = module(*inputs)
            outputs = [output] if isinstance(output, torch.Tensor) else output
            error = loss(output) if loss else reduce(torch.add, map(mse_loss, outputs, targets))
            error.backward()
            stepper.step()


def step_of(net: str, **options) -> WorkloadGraph:
    module, inputs = made(net)
    return trace_training(module, inputs, cache=False, **options)


class Operators(TorchDispatchMode):
    """Counts what runs below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace not in ("prim", "profiler") and "_local_scalar_dense" not in str(func):
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_operators_are_those_of_a_real_step(name: str, optimizer: str) -> None:
    graph = step_of(name, optimizer=optimizer)
    operators = Operators()
    real_step(*made(name), optimizer, mode=operators)
    recorded = Counter(layer.operator for layer in graph.layers) + Counter(graph.aliases)
    assert recorded == operators.calls
    assert not graph.refused


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's own, on leaving mkldnn.flags
@pytest.mark.parametrize("name", [name for name in NETS if name != "conv-tasnet"])
def test_matrix_flops_are_those_that_torch_counts_in_a_real_step(name: str) -> None:
    """Attention by its MATH kernel and LSTMs without oneDNN, which torch's counter takes for nothing."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
        graph, counter = step_of(name), FlopCounterMode(display=False)
        real_step(*made(name), mode=counter)
    assert 2 * matrix_macs(graph) == counter.get_total_flops() > 0


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (4, False), (8, False), (4, True)])
def test_a_grouped_convolution_costs_three_times_its_forward(groups: int, transposed: bool) -> None:
    """Torch's counter takes the gradient of a grouped weight for dense: `groups` times what runs."""
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    module = nn.Sequential(nn.Conv1d(8, 8, 1), kind(8, 8, 3, groups=groups))
    x = torch.randn(2, 8, 40)
    graph, counter = trace_training(module, x, cache=False), FlopCounterMode(display=False)
    real_step(module, (x,), mode=counter)
    forward = 2 * 8 * 8 // groups * 3 * (40 if transposed else 38)
    dense = forward * (groups - 1)
    of_module = {
        p: sum(la.macs for la in graph.layers if la.module == "1" and la.phase == p) for p in ("forward", "backward")
    }
    assert of_module == {"forward": forward, "backward": 2 * forward}
    assert 2 * (matrix_macs(graph) + dense) == counter.get_total_flops()


def test_attention_and_recurrence_cost_more_backward_by_what_their_kernels_do() -> None:
    """The flash kernel computes the scores again: 5 products for 2. oneDNN's LSTM: 2 for 1."""
    graph = step_of("transformer")
    macs = Counter()
    for layer in graph.layers:
        macs[layer.kind, layer.phase] += layer.macs
    pairs = 2 * 4 * 20 * 20 * 12  # batch, heads, queries, keys, width of a head
    assert (macs["attention", "forward"], macs["attention", "backward"]) == (2 * 2 * pairs, 2 * 5 * pairs)
    graph = step_of("recurrent")
    weights = sum(p.numel() for p in Sequence().rnn.parameters() if p.dim() == 2)
    forward = sum(la.macs for la in graph.layers if la.kind == "recurrent" and la.phase == "forward")
    backward = sum(la.macs for la in graph.layers if la.kind == "recurrent" and la.phase == "backward")
    assert (forward, backward) == (3 * 12 * weights, 2 * 3 * 12 * weights)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", NETS)
def test_peak_memory_is_what_torch_allocates(name: str, optimizer: str) -> None:
    module, inputs = made(name)
    traced = peak_memory(trace_training(module, inputs, optimizer=optimizer, cache=False)).bytes
    assert traced == pytest.approx(allocated_peak(module, inputs, optimizer), rel=0.15)


def test_what_lies_in_memory_by_hand() -> None:
    """Two linear layers without bias and a ReLU: the peak is before the first gradient of a weight is there."""
    module = nn.Sequential(nn.Linear(8, 256, bias=False), nn.ReLU(), nn.Linear(256, 4, bias=False))
    graph = trace_training(module, torch.empty(100, 8), cache=False)
    weights, rows = 4 * (8 * 256 + 256 * 4), 4 * 100
    live = live_bytes_by_role(graph)
    assert (live[:, Role.WEIGHT] == weights).all()
    assert (live[:, Role.OPTIMIZER] == 2 * weights + 2 * 4).all()  # two moments, and a count of steps a parameter
    backward = [i for i, layer in enumerate(graph.layers) if layer.phase == "backward"]
    assert live[: backward[0], Role.GRADIENT].max() == 0
    assert (live[backward[-1] :, Role.GRADIENT] == weights).all()
    # while the loss is taken: input, ReLU (its own input is dropped), output, target; the kernel's losses of elements
    assert live[backward[0] - 1, Role.ACTIVATION] == rows * (8 + 256 + 4 + 4 + 2 * 4) + 4
    memory = peak_memory(graph)
    assert memory.bytes == live.sum(axis=1).max()
    assert memory.layer in {layer.name for layer in graph.layers}


def test_a_larger_batch_takes_more_activations_and_nothing_else() -> None:
    small, large = (peak_memory(trace_training(autoencoder(), torch.empty(b, 2, 4000), cache=False)) for b in (2, 4))
    assert (small.weight_bytes, small.optimizer_bytes) == (large.weight_bytes, large.optimizer_bytes)
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.01)


def test_sgd_has_no_state_and_adamw_that_of_adam() -> None:
    state = {name: peak_memory(step_of("residual", optimizer=name)).optimizer_bytes for name in OPTIMIZERS}
    assert state["sgd"] == 0 < state["adam"] == state["adamw"]


# --- recomputation ----------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """Runs the blocks of a module, some of them under torch's own checkpoint."""

    def __init__(self, blocks: nn.Sequential, recomputed: set[str]) -> None:
        super().__init__()
        self.blocks, self.recomputed = blocks, recomputed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, block in self.blocks.named_children():
            x = checkpoint(block, x, use_reentrant=False) if name in self.recomputed else block(x)
        return x


def test_recomputation_costs_a_second_forward_and_saves_activations() -> None:
    blocks, x = nn.Sequential(*(Block(8) for _ in range(6))), torch.randn(2, 8, 40, 40)
    plain = trace_training(blocks, x, cache=False)
    again = trace_training(blocks, x, recompute=["[1-5]"], cache=False)
    assert peak_memory(again).activation_bytes < 0.75 * peak_memory(plain).activation_bytes

    def forward_macs(graph: WorkloadGraph, module: str) -> int:
        return sum(
            la.macs for la in graph.layers if la.operator == "aten.convolution.default" and la.module.startswith(module)
        )

    assert forward_macs(again, "0") == forward_macs(plain, "0")
    assert forward_macs(again, "1") == 2 * forward_macs(plain, "1")
    counter = FlopCounterMode(display=False)
    real = Checkpointed(blocks, set("12345"))
    real_step(real, (x,), mode=counter)
    assert 2 * matrix_macs(again) == counter.get_total_flops()
    assert peak_memory(again).bytes == pytest.approx(allocated_peak(real, (x,)), rel=0.15)


def test_recomputed_modules_are_named_by_pattern_or_depth() -> None:
    module = nn.Sequential(nn.ModuleDict({"a": Block(2)}), Block(2))
    assert workloads.training_step.recomputed(module, 1) == ["0.a", "1"]
    assert workloads.training_step.recomputed(module, ["*.first"]) == ["0.a.first", "1.first"]
    assert workloads.training_step.recomputed(module, ["*"]) == ["0", "1"]  # what is inside goes with them
    assert workloads.training_step.recomputed(module, None) == []


# --- layers -----------------------------------------------------------------------------------------------------------


def test_backward_layers_belong_to_the_module_of_their_forward() -> None:
    module, inputs = made("residual")
    graph = trace_training(module, inputs, cache=False)
    convolutions = {path for path, child in module.named_modules() if isinstance(child, nn.Conv2d)}
    for operator in ("aten.convolution.default", "aten.convolution_backward.default"):
        assert Counter(la.module for la in graph.layers if la.operator == operator) == Counter(convolutions)
    owners = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
    assert {la.module for la in graph.layers if la.phase == "optimizer"} == owners
    assert [la.phase for la in graph.layers] == sorted(
        (la.phase for la in graph.layers), key=["forward", "backward", "optimizer"].index
    )


@pytest.mark.parametrize("name", ["residual", "transformer", "recurrent", "htdemucs"])
def test_every_gradient_reaches_the_optimiser(name: str) -> None:
    module, inputs = made(name)
    graph = trace_training(module, inputs, optimizer="sgd", cache=False)
    updates = [i for i, layer in enumerate(graph.layers) if layer.phase == "optimizer"]
    parameters = dict(module.named_parameters())
    assert {weight for i in updates for weight in graph.layers[i].weights} == set(parameters)
    phases = np.array([layer.phase for layer in graph.layers])
    producer, consumer = graph.edges.T
    fed = set(consumer[(phases[producer] == "backward") & (phases[consumer] == "optimizer")].tolist())
    assert fed == set(updates)
    assert (producer < consumer).all()


def test_a_tied_weight_lives_once_and_its_gradients_are_added_up() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(30, 8)
            self.head = nn.Linear(8, 30, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(tokens))

    graph = trace_training(Tied(), torch.zeros(2, 5, dtype=torch.int64), cache=False)
    memory = peak_memory(graph)
    assert graph.parameters == 240
    assert (graph.weight_bytes, memory.weight_bytes, memory.optimizer_bytes) == (960, 960, 2 * 960 + 4)
    assert memory.gradient_bytes <= 960
    sums = [la for la in graph.layers if la.phase == "backward" and la.operator.startswith("aten.add")]
    assert [la.output_shape for la in sums] == [(30, 8)]


def test_a_frozen_module_has_neither_gradient_nor_update() -> None:
    module, inputs = made("residual")
    module[0].requires_grad_(False)
    graph = trace_training(module, inputs, cache=False)
    assert not [la for la in graph.layers if la.module == "0" and la.phase != "forward"]
    trained = 4 * sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert live_bytes_by_role(graph)[-1, Role.GRADIENT] == trained


def test_the_loss_can_be_the_users() -> None:
    labels = torch.tensor([1, 2, 3])

    def loss(output: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output, labels)

    graph = step_of("recurrent", loss=loss)
    operators = Operators()
    real_step(*made("recurrent"), mode=operators, loss=loss)
    assert Counter(layer.operator for layer in graph.layers) + Counter(graph.aliases) == operators.calls
    assert not graph.refused


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "bcctn", "conv-tasnet", "htdemucs_n-fast", "videovit-tiny"])
def test_no_operator_of_the_catalogue_is_refused_and_backward_costs_about_two_forwards(name: str) -> None:
    graph = workloads.load(name, cache=False, mode="train")
    assert not graph.refused
    macs = {p: sum(la.macs for la in graph.layers if la.phase == p) for p in ("forward", "backward", "optimizer")}
    assert 1.8 < macs["backward"] / macs["forward"] < 2.6
    inference = workloads.load(name, cache=False)
    assert (graph.mode, graph.parameters, inference.mode) == ("train", inference.parameters, "inference")


# --- the interface ----------------------------------------------------------------------------------------------------


def test_the_model_and_the_random_numbers_are_left_as_found() -> None:
    module, inputs = made("transformer, dropout")
    module.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trace_training(module, inputs, recompute=1, cache=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(child.training for child in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.isfinite(module(*inputs)).all()  # no hook is left


def test_on_meta_as_on_the_processor() -> None:
    with torch.device("meta"):
        meta = trace_training(residual(), torch.empty(2, 3, 32, 32), name="net", cache=False)
    assert meta == step_of("residual", name="net")


def test_the_cache_keeps_steps_of_other_options_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path))
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.empty(2, 4)
    frozen = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    options = [
        {},
        {"optimizer": "sgd"},
        {"recompute": ["0"]},
        {"loss": torch.sum},
        {"loss": lambda y: y.square().sum()},
    ]
    first = [trace_training(module, x, **option) for option in options] + [trace_training(frozen, x)]
    workloads.trace(module, x)
    assert len(list(tmp_path.rglob("*.json"))) == len(first) + 1
    again = [trace_training(module, x, **option) for option in options] + [trace_training(frozen, x)]
    assert again == first
    assert len(list(tmp_path.rglob("*.json"))) == len(first) + 1


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("module", "options", "message", "hint"),
    [
        (nn.Linear(4, 4), {"optimizer": "adamm"}, "no optimizer 'adamm'", "adam"),
        (nn.Linear(4, 4), {"recompute": 0}, "recompute is 0", "at least 1"),
        (nn.Linear(4, 4), {"recompute": "encoder"}, "'encoder'", "list of paths"),
        (nn.Sequential(nn.Linear(4, 4)), {"recompute": ["1"]}, "no module is called '1'", "named_modules"),
        (nn.Linear(4, 4).requires_grad_(False), {}, "no parameter", "requires_grad_"),
        (nn.Linear(4, 4), {"loss": lambda y: y}, "not a scalar", "mean"),
        (nn.Linear(4, 4), {"loss": lambda y: torch.zeros(())}, "not a scalar", "mean"),
        (Branching(), {}, "depends on the values of a tensor", "torch.where"),
        (nn.Linear(5, 4), {}, "cannot be traced", "shapes"),
        (nn.ReLU(), {}, "no parameter", ""),
    ],
)
def test_mistakes_are_explained(module: nn.Module, options: dict, message: str, hint: str) -> None:
    with pytest.raises(WorkloadError) as error:
        trace_training(module, torch.empty(2, 4), cache=False, **options)
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_saved_program_cannot_be_trained(tmp_path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 4), (torch.empty(2, 4),)), path)
    with pytest.raises(WorkloadError, match="cannot be trained"):
        workloads.trace_factory(str(path), mode="train")
    with pytest.raises(WorkloadError, match="no mode 'training'"):
        workloads.load("resnet18", mode="training")
