"""Programs saved by torch.export: the same counts as the module they were made of, and nothing of the file is run."""

import io
import json
import operator
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import workloads
from tests.workloads.tracing_help import trace
from workloads import WorkloadError
from workloads.graph import WorkloadGraph


class Tied(nn.Module):
    """A head that is the embedding, parts under no_grad and autocast, a plain buffer, an unused module, views."""

    def __init__(self):
        super().__init__()
        self.embed, self.head, self.block = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False), nn.Linear(8, 8)
        self.head.weight = self.embed.weight
        self.unused, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(5)
        self.register_buffer("shift", torch.ones(8), persistent=False)

    def forward(self, ids):
        with torch.no_grad():
            x = self.embed(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.block(x)
        return self.head((self.norm(y.float()) + self.shift).transpose(0, 1).reshape(-1, 8)), {"x": x[:, :2] * 2}


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 4, 3, padding=1), nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x, *, scale):
        x = self.conv(self.conv(x).relu_()) * scale
        y, _ = self.lstm(x.transpose(1, 2))
        y[:, :2] += 1
        return self.attention(y, y, y, need_weights=False)[0]


class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.small, self.large, (x,))


class Rescaled(nn.Module):
    """Updates a parameter in place without gradients, as RWKV does; what attention returns depends on gradients."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.div_(2)
        y = self.linear(x).view(2, 2, 2, 2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(y, y, y).transpose(1, 2).reshape(4, 4)


NETS = {
    "rescaled": (Rescaled, (torch.randn(4, 4),), {}),
    "tied": (Tied, (torch.zeros(2, 5, dtype=torch.int64),), {}),
    "shared": (Shared, (torch.randn(2, 4, 7),), {"scale": torch.ones(7)}),
    "chosen": (Chosen, (torch.randn(3, 4),), {}),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.randn(2, 5, 8),), {}),
    "complex": (lambda: nn.Linear(4, 4, dtype=torch.complex64), (torch.randn(2, 4, dtype=torch.complex64),), {}),
    "half": (lambda: nn.Conv3d(2, 4, 3).bfloat16(), (torch.randn(1, 2, 5, 6, 7).bfloat16(),), {}),
}


def save(module, path, args, kwargs=None, **options):
    torch.export.save(torch.export.export(module.eval(), args, kwargs or {}, strict=False, **options), path)
    return path


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", NETS)
def test_a_saved_program_is_the_graph_of_its_module(name, device, tmp_path):
    factory, args, kwargs = NETS[name]
    with torch.device(device):
        module = factory().eval()
    if device == "meta":
        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, kwargs))
    direct = trace(module, *args, example_kwargs=kwargs, name="net")
    path = tmp_path / "net.pt2"
    with torch.enable_grad():
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        save(module, path, args, kwargs)
        torch.backends.mha.set_fastpath_enabled(fast)
    assert workloads.trace_file(path, cache=False) == direct
    assert direct.parameters == sum(p.numel() for p in module.parameters())


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x, y):
        z = self.linear(torch.cat([x, y]))
        return z.view(z.shape[0] // 2, 12) @ z.new_ones(12, z.shape[0])


@pytest.fixture
def open_sizes(tmp_path):
    rows = torch.export.Dim("rows", min=2)
    shapes = ({0: rows}, {0: rows})
    return save(Joined(), tmp_path / "open.pt2", (torch.randn(3, 4), torch.randn(3, 4)), dynamic_shapes=shapes)


@pytest.mark.parametrize(("inputs", "rows"), [(None, 3), (["5x4", "5x4:float32"], 5)])
def test_open_sizes_are_those_of_the_example_or_as_chosen(open_sizes, inputs, rows):
    graph = workloads.trace_file(open_sizes, inputs, cache=False)
    assert graph.input_shapes == ((rows, 4), (rows, 4))
    assert graph.macs == 2 * rows * 4 * 6 + rows * 12 * 2 * rows
    direct = trace(Joined(), torch.randn(rows, 4), torch.randn(rows, 4), name="open")
    assert replace(graph, aliases=direct.aliases) == direct  # it also asks tensors for their sizes


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["5x4"], r"2 tensor inputs, 1 are given.*'x', 'y'"),
        (["5x4", "6x4"], r"s\d+ is both 5 and 6"),
        (["5x9", "5x9"], r"input x is s\d+x4 of float32, not 5x9"),
        (["5x4:int64", "5x4"], r"input x is s\d+x4 of float32, not 5x4:int64"),
        (["5x4x1", "5x4"], r"input x is s\d+x4"),
    ],
)
def test_inputs_that_do_not_fit_are_named(open_sizes, inputs, message):
    with pytest.raises(WorkloadError, match=message):
        workloads.trace_file(open_sizes, inputs, cache=False)


def test_a_size_that_depends_on_data_is_refused_by_its_symbol(tmp_path):
    class Selected(nn.Module):
        def forward(self, x):
            return torch.nonzero(x) * 2

    path = save(Selected(), tmp_path / "selected.pt2", (torch.ones(4),))
    with pytest.raises(WorkloadError, match=r"the size u0 depends on the data"):
        workloads.trace_file(path, cache=False)


def test_vmap_in_a_program_is_refused_by_name(tmp_path):
    class Mapped(nn.Module):
        def forward(self, x):
            return torch.vmap(torch.sin)(x)

    path = save(Mapped(), tmp_path / "mapped.pt2", (torch.ones(4, 2),))
    with pytest.raises(WorkloadError, match=r"mapped.pt2 holds torch.vmap") as caught:
        workloads.trace_file(path, cache=False)
    assert "dense" in caught.value.hint


def test_decomposed_programs_count_the_same(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    image = torch.randn(2, 3, 8, 8)
    program = torch.export.export(module.eval(), (image,)).run_decompositions()
    torch.export.save(program, tmp_path / "core.pt2")
    graph = workloads.trace_file(tmp_path / "core.pt2", cache=False)
    assert not graph.refused
    assert graph.macs == trace(module, image).macs
    assert graph.parameters == sum(p.numel() for p in module.parameters())


def test_the_cache_follows_what_the_file_holds_and_the_sizes_asked_for(tmp_path, monkeypatch, open_sizes):
    monkeypatch.setenv("CHIPFRONT_CACHE", str(tmp_path / "cache"))
    first = workloads.trace_file(open_sizes, name="net")
    moved = tmp_path / "elsewhere.PT2"
    moved.write_bytes(open_sizes.read_bytes())
    monkeypatch.setattr("workloads.programs.load_program", None)
    assert workloads.trace_file(moved, name="net") == first
    assert workloads.trace_factory(str(moved), name="net") == first
    for again in ({"inputs": ["5x4", "5x4"]}, {"name": "other"}):
        with pytest.raises(TypeError):
            workloads.trace_file(moved, **{"name": "net"} | again)


# --- files that are something else, damaged or hostile ---


def rewritten(source, target, change):
    """Copy an archive with its graph changed by `change`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                record = json.loads(data)
                change(record)
                data = json.dumps(record).encode()
            new.writestr(name, data)
    return target


def others(folder):
    """Files that end in .pt2 and hold no program, with what should be said of each."""
    (folder / "text.pt2").write_text("hello")
    (folder / "empty.pt2").write_bytes(b"")
    torch.save({"x": torch.ones(2)}, folder / "weights.pt2")
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), folder / "script.pt2")
    with zipfile.ZipFile(folder / "zip.pt2", "w") as archive:
        archive.writestr("a/b.txt", "hello")
    with zipfile.ZipFile(folder / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    return {
        "text": "is not a saved program",
        "empty": "is not a saved program",
        "weights": "holds weights, but no program",
        "script": "holds a TorchScript model",
        "zip": "holds no program",
        "old": "was written by torch before 2.8",
    }


def test_other_files_are_refused_for_what_they_are(tmp_path):
    for name, said in others(tmp_path).items():
        with pytest.raises(WorkloadError, match=said) as caught:
            workloads.trace_file(tmp_path / f"{name}.pt2", cache=False)
        assert f"{name}.pt2" in caught.value.message
        assert "torch.export.save" in caught.value.hint
    with pytest.raises(WorkloadError, match=r"no file .*missing\.pt2"):
        workloads.trace_file(tmp_path / "missing.pt2")


def test_a_cut_or_altered_file_is_an_error_of_ours(open_sizes, tmp_path):
    whole = open_sizes.read_bytes()
    broken = tmp_path / "broken.pt2"
    for size in range(0, len(whole), len(whole) // 12):
        broken.write_bytes(whole[:size])
        with pytest.raises(WorkloadError):
            workloads.trace_file(broken, cache=False)
    place = whole.index(b'"graph_module"')
    for offset in range(0, 2000, 190):  # bytes of the graph, whose checksum no longer holds
        broken.write_bytes(whole[: place + offset] + b"\xff\x00" + whole[place + offset + 2 :])
        with pytest.raises(WorkloadError, match=r"broken\.pt2"):
            workloads.trace_file(broken, cache=False)


def graph_of(record):
    return record["graph_module"]["graph"]


def linear_of(record):
    (node,) = [node for node in graph_of(record)["nodes"] if "linear" in node["target"]]
    return node


DAMAGES = {
    "no graph": lambda r: r.pop("graph_module"),
    "no nodes": lambda r: graph_of(r).pop("nodes"),
    "nodes of text": lambda r: graph_of(r).update(nodes=["x", "y"]),
    "an output that nothing makes": lambda r: graph_of(r)["outputs"][0]["as_tensor"].update(name="nowhere"),
    "a dtype that is none": lambda r: graph_of(r)["tensor_values"]["x"].update(dtype=99),
    "a negative size": lambda r: graph_of(r)["tensor_values"]["p_linear_weight"]["sizes"][0].update(as_int=-5),
    "another schema": lambda r: r.update(schema_version={"major": 99, "minor": 0}),
    "a parameter less": lambda r: r["graph_module"]["signature"]["input_specs"].pop(0),
    "a verifier that is none": lambda r: r.update(verifiers=["NOBODY"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_record_that_makes_no_sense_is_an_error_of_ours(name, open_sizes, tmp_path):
    with pytest.raises(WorkloadError, match=r"bad\.pt2") as caught:
        workloads.trace_file(rewritten(open_sizes, tmp_path / "bad.pt2", DAMAGES[name]), cache=False)
    assert caught.value.hint


@pytest.mark.parametrize(
    "target",
    [
        *("torch.os.system", "torch.load", "torch.ops.load_library", "math.os", "_operator.methodcaller", "#x:y"),
        *("eval", "torch.ops.aten.__class__", "torch.ops.nobody.knows.default"),
    ],
)
def test_what_is_no_operator_is_never_looked_up_or_called(target, open_sizes, tmp_path):
    path = rewritten(open_sizes, tmp_path / "odd.pt2", lambda r: linear_of(r).update(target=target))
    with pytest.raises(WorkloadError, match=target.removeprefix("torch.ops.")) as caught:
        workloads.trace_file(path, cache=False)
    if "nobody" in target:
        assert "test_programs.py" in caught.value.message
        assert "chipfront.operators" in caught.value.hint


def test_nothing_in_a_file_is_unpickled_or_evaluated(open_sizes, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return operator.call, (pytest.fail, "unpickled")

    def poison(record):
        for spec in graph_of(record)["tensor_values"].values():
            for size in spec["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = "__import__('pytest').fail('evaluated')"

    path = rewritten(open_sizes, tmp_path / "hostile.pt2", poison)
    buffer = io.BytesIO()
    pickle.dump(Bomb(), buffer)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.pt2", "w") as new:
        for name in old.namelist():
            binary = name.endswith("sample_inputs/model.pt") or "/weight_" in name
            new.writestr(name, buffer.getvalue() if binary else old.read(name))
    graph = workloads.trace_file(tmp_path / "bomb.pt2", name="open", cache=False)
    assert isinstance(graph, WorkloadGraph)
    assert graph.macs == workloads.trace_file(open_sizes, cache=False).macs


def test_operators_of_an_installed_package_are_found_and_refused_by_name(tmp_path):
    library = torch.library.Library("chipfront_saved", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("chipfront_saved::twice", torch.empty_like, lib=library)

    class Net(nn.Module):
        def forward(self, x):
            return F.relu(torch.ops.chipfront_saved.twice(x))

    graph = workloads.trace_file(save(Net(), tmp_path / "net.pt2", (torch.randn(3),)), cache=False)
    assert graph.refused == {"chipfront_saved.twice.default": 1}
    assert "chipfront_saved.twice(x))`" in graph.layers[0].source
