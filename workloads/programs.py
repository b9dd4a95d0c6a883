"""Programs saved by `torch.export.save` (.pt2), read without running or unpickling anything that the file holds.

An archive is a zip file: the graph and the tensors' shapes are JSON, the weights are raw bytes, which no trace needs.
`torch.export.load` would unpickle example inputs and constants, evaluate the text of symbolic sizes and look names up
in all of torch. Here every symbolic size becomes a number and every operator is looked up in torch's register before
torch's deserializer sees the graph; then shapes are propagated through it anew, because the file does not say which
tensors are views of which.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._export.serde import schema, serialize
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from workloads import cache as graph_cache
from workloads.dataflow import BODIES, DENSE_HINT, build_graph
from workloads.errors import WorkloadError
from workloads.fingerprint import digest, registered_rules, tracer_version
from workloads.graph import WorkloadGraph
from workloads.inputs import parse_input
from workloads.operators import registered
from workloads.sources import source_in
from workloads.trace import quiet

SAVE_AGAIN = "save it again with torch.export.save of the torch that is installed here"
FOREIGN = "a .pt2 file is what torch.export.save(torch.export.export(module, inputs), path) writes"

LEGACY = "serialized_exported_program.json"
"""Stands in archives of torch before 2.8, whose weights are pickled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What an archive says of one program: texts of JSON, and how many bytes of each tensor are stored."""

    graph: bytes
    weights: bytes
    constants: bytes
    stored: Mapping[str, int]  # file in the archive -> bytes


def trace_program(path: Path, inputs: Sequence[str], *, name: str, cache: bool = True) -> WorkloadGraph:
    """Return the graph of a saved program.

    `inputs` are shapes such as "1x3x224x224" of its tensor inputs, in order: sizes that the program leaves open can be
    chosen; without `inputs` they are those of the example that it was exported with.

    Raises
    ------
    WorkloadError
        If the file is not such a program, is damaged or was written by another torch, the inputs do not fit, or it
        calls an operator that is not known here.
    """
    archive = read_archive(path)
    key = digest([name, *tracer_version(), *registered_rules(), archive, *inputs]) if cache else ""
    if key and (stored := graph_cache.read(name, key)) is not None:
        return stored
    with quiet():
        graph = build_graph(load_program(archive, str(path), inputs), name)
    if key:
        graph_cache.write(name, key, graph)
    return graph


def load_program(archive: Archive, path: str, inputs: Sequence[str] = ()) -> ExportedProgram:
    """Return a saved program with weights of shape and dtype only, every size a number, and views as views.

    A program saved from the meta device does not say which of its parameters are one: of those that nothing reads, one
    of shape and dtype of another that is read counts as another name of it.

    Raises
    ------
    WorkloadError
        As `trace_program` does, about the file called `path`.
    """
    registered()  # other distributions register their operators with torch when their rules are loaded
    try:
        record = json.loads(archive.graph)
        for node in _calls(record):
            _check_operator(node, path)
        sizes = _input_sizes(record, inputs, path)
        _make_static(record, path)
        record["graph_module"]["module_call_graph"] = []  # classes of arguments and results: of no use here
        program = serialize.ExportedProgramDeserializer().deserialize(
            serialize._bytes_to_dataclass(schema.ExportedProgram, json.dumps(record).encode()),
            _tensors(archive, archive.weights, "weights", path),
            _tensors(archive, archive.constants, "constants", path),
        )
    except WorkloadError:
        raise
    except Exception as error:  # whatever torch's deserializer makes of a damaged record
        first = next(iter(str(error).splitlines()), "")
        raise WorkloadError(f"{path} is damaged: {type(error).__name__}: {first}", SAVE_AGAIN) from None
    _propagate(program, sizes, path)
    _tie_what_is_not_stored(program, archive)
    return program


# --- the archive -----------------------------------------------------------------------------------------------------


def read_archive(path: Path) -> Archive:
    """Read what a .pt2 file says of its program, none of its weights.

    Raises
    ------
    WorkloadError
        If it is no such file, or holds something else than one program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.partition("/")[2]: name for name in archive.namelist()}
            models = [name for name in files if name.startswith("models/") and name.endswith(".json")]
            if not models:
                raise WorkloadError(f"{path} is not a saved program: {_what(archive.namelist())}", FOREIGN)
            if len(models) > 1:
                names = ", ".join(sorted(Path(name).stem for name in models))
                raise WorkloadError(f"{path} holds {len(models)} programs: {names}", "save each in a file of its own")
            model = Path(models[0]).stem
            return Archive(
                graph=archive.read(files[models[0]]),
                weights=archive.read(files[f"data/weights/{model}_weights_config.json"]),
                constants=archive.read(files[f"data/constants/{model}_constants_config.json"]),
                stored={name: archive.getinfo(full).file_size for name, full in files.items() if "data/" in name},
            )
    except KeyError as error:
        raise WorkloadError(f"{path} is damaged: it lacks {error}", SAVE_AGAIN) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise WorkloadError(f"{path} is not a saved program: {error}", FOREIGN) from None


def _what(names: Sequence[str]) -> str:
    """Return what else an archive without a program is."""
    inner = {name.partition("/")[2] for name in names}
    if LEGACY in names:
        return "it was written by torch before 2.8"
    if any(name.startswith("data/aotinductor") for name in inner):
        return "it holds a compiled model, of which no operators are left"
    if any(name.startswith("code/") for name in inner):
        return "it holds a TorchScript model"
    return "it holds weights, but no program" if "data.pkl" in inner else "it holds no program"


def _tensors(archive: Archive, config: bytes, kind: str, path: str) -> dict[str, torch.Tensor]:
    """Return tensors of the recorded shapes on the meta device; those that share bytes in the file share a storage."""
    storages: dict[tuple[str, str], torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    for name, entry in json.loads(config)["config"].items():
        meta = entry["tensor_meta"]
        if meta is None:
            hint = "keep tensors and numbers in the module, no objects"
            raise WorkloadError(f"{path}: {name} is an object that would have to be unpickled", hint)
        dtype = serialize._SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]]
        shape, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        nbytes = archive.stored.get(f"data/{kind}/{entry['path_name']}", 0)
        # of tensors on the meta device nothing is stored, nor which of them are one
        key = (entry["path_name"], "") if nbytes else (entry["path_name"], name)
        if key not in storages:
            storages[key] = torch.empty(nbytes // dtype.itemsize, dtype=dtype, device="meta")
        if nbytes:
            tensor = torch.as_strided(storages[key], shape, strides, meta["storage_offset"]["as_int"])
        else:
            tensor = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        found[name] = torch.nn.Parameter(tensor, requires_grad=False) if entry["is_param"] else tensor
    return found


def _tie_what_is_not_stored(program: ExportedProgram, archive: Archive) -> None:
    """Make one of a parameter that nothing reads and a like one that is read, where the file cannot say."""
    stored = {name: archive.stored.get(f"data/weights/{entry['path_name']}", 0) for name, entry in _config(archive)}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    read: dict[tuple[object, ...], str] = {}
    unread = []
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        if spec.kind == InputKind.PARAMETER and not stored[str(spec.target)]:
            tensor = program.state_dict[str(spec.target)]
            like = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if node.users:
                read.setdefault(like, str(spec.target))
            else:
                unread.append((str(spec.target), like))
    for name, like in unread:
        if like in read:
            program.state_dict[name] = program.state_dict[read[like]]


def with_values(program: ExportedProgram, path: Path) -> ExportedProgram:
    """Give a loaded program the weights' and constants' values in its file, on the CPU where it then runs; return it.

    Of a program saved from the meta device, which holds none, weights are drawn from a normal distribution of deviation
    0.02, and constants are zero.

    Raises WorkloadError where a value would have to be unpickled.
    """
    archive = read_archive(path)
    contents: dict[tuple[str, str], torch.Tensor] = {}
    with zipfile.ZipFile(path) as file:
        files = {name.partition("/")[2]: name for name in file.namelist()}
        for kind, config, held in (
            ("weights", archive.weights, program.state_dict),
            ("constants", archive.constants, program.constants),
        ):
            for name, entry in json.loads(config)["config"].items():
                if not isinstance(held.get(name), torch.Tensor):
                    continue
                if entry.get("use_pickle"):
                    hint = "save plain tensors: torch.export.save of a module of parameters and buffers"
                    raise WorkloadError(f"{path}: {name} would have to be unpickled", hint)
                shape_only, stored = held[name], (kind, entry["path_name"])
                if not archive.stored.get(f"data/{kind}/{entry['path_name']}"):
                    made = torch.empty_strided(shape_only.shape, shape_only.stride(), dtype=shape_only.dtype)
                    drawn = kind == "weights" and made.dtype.is_floating_point
                    held[name] = made.normal_(std=0.02) if drawn else made.zero_()
                    continue
                if stored not in contents:
                    content = bytearray(file.read(files[f"data/{kind}/{entry['path_name']}"]))
                    contents[stored] = torch.frombuffer(content, dtype=torch.uint8)
                flat = torch.empty(0, dtype=shape_only.dtype)
                held[name] = flat.set_(
                    contents[stored].untyped_storage(),
                    shape_only.storage_offset(),
                    shape_only.shape,
                    shape_only.stride(),
                )
    for body in program.graph_module.modules():
        if isinstance(body, fx.GraphModule):
            for node in body.graph.nodes:
                node.args, node.kwargs = (fx.node.map_aggregate(given, _on_cpu) for given in (node.args, node.kwargs))
            body.recompile()
    return program


def _on_cpu(argument: Any) -> Any:
    return torch.device("cpu") if isinstance(argument, torch.device) else argument


def _config(archive: Archive) -> list[tuple[str, dict[str, Any]]]:
    return list(json.loads(archive.weights)["config"].items())


# --- the record ------------------------------------------------------------------------------------------------------


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON record, outer ones first."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _calls(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the operator calls of the graph and of its bodies."""
    for item in _objects(record["graph_module"]):
        if isinstance(item.get("nodes"), list):
            yield from item["nodes"]


def _check_operator(node: Mapping[str, Any], path: str) -> None:
    """Raise WorkloadError unless the call is of an operator in torch's register, or arithmetic on sizes."""
    target = str(node["target"])
    if target.startswith("torch.ops."):
        found: Any = torch.ops
        for part in target.split(".")[2:]:
            found = getattr(found, part, None)
        if isinstance(found, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
            return
        name = target.removeprefix("torch.ops.")
        source = source_in(str(node.get("metadata", {}).get("stack_trace", "")))
        raise WorkloadError(
            f"{path}: operator {name} is not known here" + (f", called at {source}" if source else ""),
            "install the package that defines it, and name a function of it as the entry point chipfront.operators",
        )
    if target.startswith("torch._functorch."):
        raise WorkloadError(f"{path} holds torch.vmap or torch.func, whose work cannot be counted", DENSE_HINT)
    deserialize = serialize.GraphModuleDeserializer().deserialize_operator
    if not target.startswith(("_operator.", "math.", "torch.sym_")) or deserialize(target) not in serialize._SYM_OPS:
        raise WorkloadError(f"{path}: {target!r} is no operator", SAVE_AGAIN)


def _input_sizes(record: Mapping[str, Any], inputs: Sequence[str], path: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor input by name: as asked for where the program leaves it open, else as saved."""
    graph = record["graph_module"]["graph"]
    specs = (spec.get("user_input") for spec in record["graph_module"]["signature"]["input_specs"])
    names = [spec["arg"]["as_tensor"]["name"] for spec in specs if spec and "as_tensor" in spec["arg"]]
    saved = {name: graph["tensor_values"][name]["sizes"] for name in names}
    if not inputs:
        return {name: tuple(_number(size, path) for size in sizes) for name, sizes in saved.items()}
    if len(inputs) != len(names):
        raise WorkloadError(f"{path} has {len(names)} tensor inputs, {len(inputs)} are given", f"in order {names}")
    chosen: dict[str, tuple[int, ...]] = {}
    symbols: dict[str, int] = {}
    for (name, sizes), text in zip(saved.items(), inputs, strict=True):
        shape, dtype = parse_input(text)
        kind = serialize._SERIALIZE_TO_TORCH_DTYPE[graph["tensor_values"][name]["dtype"]]
        shown = "x".join(_symbol(size) if "as_expr" in size else str(size["as_int"]) for size in sizes)
        wrong = WorkloadError(
            f"{path}: input {name} is {shown} of {str(kind).removeprefix('torch.')}, not {text}",
            "sizes that are numbers were fixed when the program was exported; those that are names can be chosen",
        )
        if len(shape) != len(sizes) or (":" in text and dtype != str(kind).removeprefix("torch.")):
            raise wrong
        for asked, size in zip(shape, sizes, strict=True):
            if "as_int" in size:
                if asked != size["as_int"]:
                    raise wrong
            elif symbols.setdefault(_symbol(size), asked) != asked:
                raise WorkloadError(f"{path}: {_symbol(size)} is both {symbols[_symbol(size)]} and {asked}", wrong.hint)
        chosen[name] = shape
    return chosen


def _symbol(size: Mapping[str, Any]) -> str:
    """Return the name of a symbolic size, such as s31; an expression as it stands in the file."""
    text = str(size["as_expr"]["expr_str"])
    names = re.findall(r"Symbol\('(\w+)'", text)
    return names[0] if len(set(names)) == 1 and text.startswith("Symbol(") else text


def _number(size: Mapping[str, Any], path: str) -> int:
    """Return a size; of a symbolic one that of the example that the program was exported with."""
    if "as_expr" not in size:
        return int(size["as_int"])
    hint = size["as_expr"].get("hint")
    if not hint or "as_int" not in hint:
        names = " and ".join(dict.fromkeys(re.findall(r"Symbol\('(\w+)'", size["as_expr"]["expr_str"])))
        raise WorkloadError(
            f"{path}: the size {names} depends on the data, so what it costs has no number",
            "give it a fixed size: torch.where, topk or a mask instead of nonzero or boolean indexing",
        )
    return int(hint["as_int"])


def _make_static(record: dict[str, Any], path: str) -> None:
    """Replace symbolic sizes by numbers (the file's text would be evaluated otherwise), and accelerators by the CPU."""
    record["range_constraints"], record["guards_code"] = {}, []
    for item in _objects(record):
        if set(item) == {"as_expr"}:
            expression = item["as_expr"]
            kind, value = next(iter((expression.get("hint") or {"as_int": _number(item, path)}).items()))
            item.clear()
            item[kind] = value
        elif set(item) == {"type", "index"} and item["type"] != "meta":
            item |= {"type": "cpu", "index": None}


# --- shapes ----------------------------------------------------------------------------------------------------------


class _Shapes(fx.Interpreter):
    """Runs a graph on tensors without data and keeps in each node what it makes."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; what it made becomes its value."""
        if n.op == "call_function" and isinstance(n.target, torch._ops.HigherOrderOperator):
            made = self._body(n)
        else:
            made = super().run_node(n)
        n.meta["val"] = made
        return made

    def _body(self, node: fx.Node) -> Any:
        """Run the bodies of a higher-order operator; of one that is not walked, keep what the file says it makes."""
        args, _ = self.fetch_args_kwargs_from_env(node)
        name = str(node.target)
        bodies = [(i, a) for i, a in enumerate(args) if isinstance(a, fx.GraphModule)]
        if name == "cond":
            branches = [_Shapes(body).run(*args[3]) for _, body in bodies]
            return branches[0]
        if name not in BODIES or not bodies:
            return node.meta.get("val")
        position, body = bodies[0]
        context: AbstractContextManager[Any] = nullcontext()
        if name == "wrap_with_autocast":
            context = torch.autocast(args[0], dtype=args[1], enabled=args[2])
        elif name == "wrap_with_set_grad_enabled":
            context = torch.set_grad_enabled(args[0])
        with context:
            return _Shapes(body).run(*(a for a in args[position + 1 :] if not isinstance(a, str)))


def _propagate(program: ExportedProgram, sizes: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Give every node of the graph the value it has for inputs of these sizes; views share their source's storage."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    known = (node.meta.get("val") for node in nodes)
    mode = next((value.fake_mode for value in known if isinstance(value, FakeTensor)), None) or FakeTensorMode()
    values = []
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        value = node.meta.get("val")
        if spec.kind == InputKind.USER_INPUT and isinstance(value, torch.Tensor):
            shape = sizes[node.name]
            if tuple(value.shape) != shape:
                with mode:
                    value = torch.empty(shape, dtype=value.dtype)
        values.append(value)
    try:
        with mode:
            _Shapes(program.graph_module).run(*values)
    except Exception as error:  # whatever an operator says of its arguments
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        shown = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in sizes.items())
        hint = "other sizes, or leave them out for those of the example" if sizes else SAVE_AGAIN
        raise WorkloadError(f"{path} does not run on {shown or 'no inputs'}: {reason}", hint) from None
