"""Mapped models in processes: every family of the catalogue answers as the original, and sends what it is charged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import workloads
from dse.errors import DseError
from dse.mapped_model import run_mapped
from dse.mapped_model.model import draw_zeros
from tests.dse.mapped_model_help import proven, random_slots, segmented
from workloads.models.bcctn import BCCTN, BCCTNTable
from workloads.models.conv_tasnet import conv_tasnet
from workloads.models.htdemucs import HTDemucs
from workloads.models.htdemucs_n import HTDemucsN
from workloads.models.mossformer2 import MossFormer2
from workloads.models.resnet import ResNet
from workloads.models.video_audio_ast import video_audio_ast
from workloads.models.video_vit import video_vit
from workloads.models.vit import ViT

AUDIO = (1, 2, 4000)
EARS = {"n_fft": 32, "window": 16, "hop": 4, "heads": 4}

FAMILIES = {
    "htdemucs": (
        lambda: HTDemucs(channels=8, nfft=2048, depth=2, t_layers=2, t_heads=2, samplerate=8000, segment_s=0.5),
        [AUDIO],
    ),
    "htdemucs_n": (
        lambda: HTDemucsN(
            channels=8, depth=2, n_ffts=(128, 256), resolution_channels=8, resunet_channels=16, t_layers=2, t_heads=2,
            t_head_dim=8, positions=50, samplerate=8000, segment_s=0.5,
        ),
        [AUDIO],
    ),
    "mossformer2": (
        lambda: MossFormer2(
            layers=2, embedding_dim=12, sequence_dim=8, bottleneck_dim=6, fsmn_order=3, group=16, query_key_dim=4
        ),
        [(2, 400)],
    ),
    "conv-tasnet": (lambda: conv_tasnet(filters=12, bottleneck=8, hidden=10, blocks=3, repeats=2), [(1, 1, 800)]),
    "bcctn": (lambda: BCCTN(channels=(2, 4), **EARS), [(2, 2, 400)]),
    "bcctn-unshared": (lambda: BCCTN(channels=(2, 4), shared_encoder=False, **EARS), [(1, 2, 400)]),
    "bcctn-table": (lambda: BCCTNTable(channels=(4, 8), width=32, attention_width=16, **EARS), [(1, 2, 400)]),
    "resnet": (lambda: ResNet((1, 1, 1, 1), bottleneck=True, classes=10), [(1, 3, 64, 64)]),
    "vit": (
        lambda: draw_zeros(ViT(image=32, patch=8, dim=32, depth=2, heads=4, hidden=64, classes=10)), [(2, 3, 32, 32)]
    ),
    "videovit": (lambda: video_vit(size="tiny"), [(1, 4, 3, 32, 32)]),
    "videoaudioast": (lambda: video_audio_ast(size="tiny"), [(1, 4, 3, 32, 32), (1, 4, 64)]),
}  # fmt: skip


def test_every_model_of_the_catalogue_is_of_a_family_here() -> None:
    ships = (name for name in workloads.names() if workloads.entry(name).factory.startswith("workloads."))
    assert not [name for name in ships if not name.startswith(tuple(FAMILIES))]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_under_random_mappings(name: str) -> None:
    """Every layer a segment, scattered over three slots; and two slots with one run of segments each."""
    torch.manual_seed(1)
    build, shapes = FAMILIES[name]
    module, inputs = build().eval(), tuple(torch.randn(shape) for shape in shapes)
    layers = segmented(module, inputs, 1)
    proven(module, layers, random_slots(layers, 3, 0), inputs)
    runs = workloads.build_segments(layers.graph, segment_size=3)
    proven(module, runs, np.arange(len(runs)) * 2 // len(runs), inputs)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**16))
def test_any_cut_of_a_model_under_any_mapping(size: int, slots: int, seed: int) -> None:
    torch.manual_seed(seed)
    module, inputs = (
        draw_zeros(ViT(image=16, patch=8, dim=16, depth=2, heads=2, hidden=32, classes=5)),
        (torch.randn(2, 3, 16, 16),),
    )
    segments = segmented(module, inputs, size)
    run = proven(module, segments, random_slots(segments, slots, seed) * 3, inputs)  # slots need not be neighbours
    if slots == 1:
        assert not run.sent_bytes.any()
        assert run.messages == 0


@pytest.mark.parametrize(("name", "batch"), [("conv-tasnet", 1), ("resnet18", 2), ("videovit-tiny", 1)])
def test_a_workload_by_name_runs_as_its_graph_was_traced(name: str, batch: int) -> None:
    """The graph of the catalogue is traced on the meta device, where other copies are made than on a processor."""
    graph = workloads.family(name).at(batch=batch, exact=True)
    segments = workloads.build_segments(graph, count=6)
    run = proven(name, segments, [0, 1, 2, 0, 1, 2])
    assert run.name == name
    assert all(output.shape[0] == batch for output in run.outputs)
    again = run_mapped(name, segments, [0, 0, 0, 0, 1, 1])
    assert all(map(torch.equal, run.original_outputs, again.original_outputs))  # same seed, same weights and inputs
    other = run_mapped(name, segments, [0, 0, 0, 0, 1, 1], seed=1)
    assert not any(map(torch.equal, run.original_outputs, other.original_outputs))


def test_a_process_holds_only_the_weights_that_its_layers_read() -> None:
    module, inputs = ResNet((1, 1, 1, 1), bottleneck=False, classes=10), (torch.randn(1, 3, 32, 32),)
    segments = segmented(module, inputs, 3)
    slots = random_slots(segments, 3, 4)
    run = proven(module, segments, slots, inputs)
    expected = segments.weight_bytes_together(slots, 3)
    expected[slots[0]] += inputs[0].nbytes  # the first layer reads the image
    assert run.given_bytes.tolist() == expected.tolist()


def test_tied_weights_lie_where_they_are_read_and_rows_of_a_weight_only_there() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rows = nn.Embedding(40, 8), nn.Parameter(torch.randn(64, 8))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.table(tokens)
            return (x @ self.rows[:32].T).tanh() @ self.rows[32:] @ self.table.weight.T

    module, inputs = Tied(), (torch.randint(0, 40, (2, 5)),)
    segments = segmented(module, inputs, 1)
    assert [segment.name for segment in segments]
    run = proven(module, segments, np.arange(len(segments)), inputs)
    tokens, table, half = inputs[0].nbytes, 40 * 8 * 4, 32 * 8 * 4
    assert run.given_bytes.tolist() == [table + tokens, half, 0, half, table]


def test_the_module_is_left_as_it_was_found() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    inputs, threads = (torch.randn(2, 3, 8, 8),), torch.get_num_threads()
    graph = workloads.trace(module, inputs, cache=False)
    segments = workloads.build_segments(graph, segment_size=1)
    kept = inputs[0].clone()
    proven(module, segments, random_slots(segments, 2, 0), inputs)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(inputs[0], kept)
    assert torch.get_num_threads() == threads


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.conv, self.lstm = nn.Embedding(10, 16), nn.Conv1d(16, 8, 3), nn.LSTM(8, 8, batch_first=True)
        self.register_buffer("picked", torch.tensor([3, 1]))

    def forward(self, tokens, x):
        y = self.conv(self.table(tokens).transpose(1, 2) + x).transpose(1, 2)
        out, (hidden, _) = self.lstm(y)
        return out * hidden[0][:, None], out[..., self.picked]

def net():
    return Net(), (torch.randint(0, 10, (2, 9)), torch.randn(2, 16, 9))
"""


@pytest.mark.parametrize("kind", ["factory", "program", "program from meta", "onnx"])
def test_models_of_ones_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_mapped_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    import my_mapped_net

    name, known = "my_mapped_net:net", None
    if kind.startswith("program"):
        module, inputs = my_mapped_net.net()
        if kind == "program from meta":
            module, inputs = module.to("meta"), tuple(tensor.to("meta") for tensor in inputs)
        torch.export.save(torch.export.export(module.eval(), inputs, strict=False), "net.pt2")
        name, known = "net.pt2", None if kind == "program from meta" else module
    elif kind == "onnx":
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5)).eval()
        torch.onnx.export(module, (torch.randn(1, 3, 12, 12),), "net.onnx", dynamo=False)
        name, known = "net.onnx", module
    graph = workloads.trace_factory(name, cache=False)
    segments = workloads.build_segments(graph, segment_size=1)
    run = proven(name, segments, random_slots(segments, 3, 0))
    if known is not None:  # the values are those of the file
        given = [torch.randint(0, 10, shape) if len(shape) == 2 else torch.randn(shape) for shape in graph.input_shapes]
        run = proven(name, segments, random_slots(segments, 3, 0), given)
        with torch.no_grad():
            expected = known(*given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for mine, theirs in zip(run.outputs, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_run_is_refused_with_a_reason() -> None:
    module, inputs = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.randn(3, 4),)
    segments = segmented(module, inputs, 1)
    for slots in ([0, 1], [0, 1, -1], [0.0, 1.0, 1.0], [[0, 1, 1]]):
        with pytest.raises(DseError, match="the assignment"):
            run_mapped(module, segments, slots, inputs=inputs)
    with pytest.raises(DseError, match="inputs"):
        run_mapped(module, segments, [0, 1, 0])
    with pytest.raises(DseError, match="layer 2"):
        run_mapped(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh()), segments, [0, 1, 0], inputs=inputs)
    with pytest.raises(DseError, match=r"layer 0 .*\(5, 4\)"):
        run_mapped(module, segments, [0, 1, 0], inputs=(torch.randn(5, 4),))
    training = workloads.build_segments(workloads.trace_training(module, inputs, cache=False), segment_size=4)
    with pytest.raises(DseError, match="training step"):
        run_mapped(module, training, [0] * len(training), inputs=inputs)


def test_no_process_is_left_behind() -> None:
    module, inputs = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.randn(3, 4),)
    segments = segmented(module, inputs, 1)
    pids: list[int] = []

    def watch(done: int, doing: str) -> None:
        import multiprocessing

        pids.extend(process.pid for process in multiprocessing.active_children() if process.pid)

    run_mapped(module, segments, [0, 1, 0], inputs=inputs, on_progress=watch)
    assert len(set(pids)) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class _Silent(nn.Module):
    """Its last layer begins at zero, as that of some published networks does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def test_outputs_of_one_value_prove_nothing() -> None:
    segments = segmented(_Silent(), (torch.ones(2, 4),), 1)
    run = run_mapped(_Silent(), segments, np.arange(len(segments)) % 2, inputs=torch.ones(2, 4))
    assert run.outputs_equal
    assert not run.proven
    assert "proves nothing" in str(run)


def test_zeros_of_a_named_model_are_drawn() -> None:
    """The vision transformer's head begins at zero."""
    segments = workloads.build_segments(workloads.family("vit_b_16").at(batch=1), count=2)
    assert proven("vit_b_16", segments, [0, 1]).original_outputs[0].any()
