"""Measuring layers: what is timed, how it resumes, and what is drawn round the catalogue."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from dse.cli import cli
from dse.errors import DseError
from dse.proxy.columns import OPERATORS
from dse.proxy.measure.energy import energy_counter
from dse.proxy.measure.machine import Machine
from dse.proxy.measure.operators import Operand, Operator, operator
from dse.proxy.measure.session import key_of, measure, publish, read_lines
from dse.proxy.measure.shapes import SHARES, spread_rows, template_rows, traced
from dse.proxy.measure.timing import ColdData, allocated_peak, peak_memory_bytes, time_operator

MACHINE = Machine(
    device="bench-1core",
    kind="cpu",
    model="Bench",
    vendor="other",
    threads=1,
    clock_mhz=2000.0,
    cache_bytes=1 << 20,
    memory_bytes=1 << 34,
    peak_tflops={"fp32": 0.1},
    measured_tflops={"fp32": 0.08},
    bandwidth_gb_s=10.0,
    idle_w=None,
    flags=("avx2",),
    caches={"L2": 1 << 20},
    torch="2.13.0+cpu",
    system="Linux",
)


@pytest.fixture(scope="module")
def templates():
    return template_rows()


LINEAR = {
    **{"op_type": "matmul", "op_name": "linear", "dtype": "fp32", "compute_dtype": "fp32", "batch": 1, "layout": 0},
    **{"m": 64, "n": 96, "k": 128, "flops": 2.0 * 64 * 96 * 128},
    **{"bytes": 4.0 * (64 * 128 + 96 * 128 + 64 * 96), "weight_bytes": 4.0 * 96 * 128},
}
"""A product with a weight, without a bias: the one that int8 is measured with."""


def add_row(rows: int, **more) -> dict:
    sizes = {"batch": 1, "rows": rows, "cols": 8, "operands": 2, "broadcast": 0}
    work = {"flops": 8.0 * rows, "bytes": 96.0 * rows, "weight_bytes": 0.0}
    return {
        "op_type": "elementwise",
        "op_name": "add",
        "dtype": "fp32",
        "compute_dtype": "fp32",
        **sizes,
        **work,
        **more,
    }


def test_a_call_of_known_duration_is_timed_right() -> None:
    sleeper = Operator(operands=(), call=lambda: time.sleep(0.02))
    timing = time_operator(sleeper, ColdData("cpu", 1 << 20, seed=0))
    assert timing.latency_ms >= 20.0  # sleep never returns early
    assert timing.repeats >= 3


def test_short_calls_are_repeated_within_a_sample() -> None:
    calls = []
    timing = time_operator(Operator(operands=(), call=lambda: calls.append(0)), ColdData("cpu", 1 << 20, seed=0))
    assert timing.repeats == len(calls) - 2  # two warm it up
    assert timing.repeats > 100  # a microsecond or less, samples of 20


def test_data_are_fresh_until_more_than_the_cache_was_read() -> None:
    cache = 1 << 16
    data = ColdData("cpu", cache, seed=0)
    operand = Operand(shape=(1000,))
    places = [data.tensors((operand,))[0].data_ptr() for _ in range(200)]
    again = next(n for n, place in enumerate(places) if place in places[:n])
    assert again * operand.nbytes > cache
    values = data.tensors((operand,))[0]
    assert values.std() > 0.5 and len(values.unique()) > 900


def test_operands_lie_as_they_should() -> None:
    data = ColdData("cpu", 1 << 16, seed=0)
    turned = Operand(shape=(2, 3, 4), order=(0, 2, 1))
    gaps = Operand(shape=(2, 3, 4), gap=5)
    bounded = Operand(shape=(100,), dtype=torch.int64, high=7)
    numbers = Operand(shape=(3, 4), dtype=torch.complex64)
    a, b, c, d = data.tensors((turned, gaps, bounded, numbers))
    assert (a.shape, a.stride()) == ((2, 3, 4), (12, 1, 3))
    assert (b.shape, b.stride()) == ((2, 3, 4), (27, 9, 1))
    assert c.dtype == torch.int64 and c.min() >= 0 and c.max() < 7
    assert d.dtype == torch.complex64 and d.abs().min() > 0


def test_peak_memory_counts_inputs_results_and_what_lies_between() -> None:
    x = Operand(shape=(1000, 250))  # 1 MB
    data = ColdData("cpu", 1 << 16, seed=0)
    once = Operator(operands=(x,), call=lambda x: x + 1)
    between = Operator(operands=(x,), call=lambda x: ((x + 1) * 2).sum())
    assert peak_memory_bytes(once, data) == pytest.approx(2e6, rel=0.01)
    assert peak_memory_bytes(between, data) == pytest.approx(3e6, rel=0.01)
    assert allocated_peak(lambda: None, "cpu") == 0


def test_a_measurement_resumes_and_repeats_nothing(tmp_path) -> None:
    out = tmp_path / "rows.jsonl"
    first = measure([add_row(4), add_row(5)], out, MACHINE)
    assert (first.measured, first.known) == (2, 0)
    before = out.read_text()
    out.write_text(before + '{"torn": ')  # the machine went down while it wrote
    second = measure([add_row(4), add_row(5), add_row(6), add_row(6)], out, MACHINE)
    assert (second.measured, second.known) == (1, 3)
    assert out.read_text().startswith(before)
    rows = read_lines(out)
    assert [row["rows"] for row in rows] == [4, 5, 6]
    assert {row["key"] for row in rows} == {key_of(add_row(n)) for n in (4, 5, 6)}
    assert all(row["latency_ms"] > 0 and row["mem_mb"] == pytest.approx(row["bytes"] / 1e6) for row in rows)
    elsewhere = measure([add_row(4)], out, replace(MACHINE, device="other-1core"))
    assert elsewhere.measured == 1


def test_an_interrupted_measurement_keeps_what_was_measured(tmp_path) -> None:
    def rows():
        yield add_row(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(rows(), tmp_path / "rows.jsonl", MACHINE)
    assert len(read_lines(tmp_path / "rows.jsonl")) == 1


def test_a_row_that_cannot_run_is_kept_with_its_reason(tmp_path) -> None:
    out = tmp_path / "rows.jsonl"
    pool = {
        "op_type": "pool",
        "op_name": "max_pool2d",
        "dtype": "fp32",
        "flops": 1.0,
        "bytes": 8.0,
        "weight_bytes": 0.0,
    }
    too_small = pool | {"batch": 1, "hin": 2, "win": 2, "hout": 1, "wout": 1, "kh": 5, "kw": 5, "stride": 1}
    state = measure([add_row(4, op_name="no_such"), too_small, add_row(4)], out, MACHINE)
    assert (state.measured, state.refused) == (1, 2)
    unknown, small, _ = read_lines(out)
    assert "no_such" in unknown["refused"] and small["refused"] and "latency_ms" not in small
    assert measure([too_small], out, MACHINE).known == 1  # nor is it tried again


def test_the_budget_begins_no_further_row(tmp_path) -> None:
    state = measure((add_row(n) for n in range(1, 1000)), tmp_path / "rows.jsonl", MACHINE, budget_s=0.2)
    assert 0 < state.measured < 999


def test_a_file_that_holds_something_else_is_refused(tmp_path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("model,latency\n")
    with pytest.raises(DseError, match=r"rows\.jsonl, line 1"):
        measure([add_row(4)], out, MACHINE)


def test_the_table_is_read_back_as_rows_of_the_tidy_schema(tmp_path) -> None:
    from dse.proxy.dataset import read_rows

    out, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    measure([add_row(4), add_row(5), add_row(4, op_name="no_such")], out, MACHINE)
    publish(read_lines(out), MACHINE, table)
    frame = pd.read_parquet(table)
    assert len(frame) == 2 and (frame["framework"] == "torch2.13.0-cpu").all()
    rows = read_rows(table)
    assert len(rows) == 2 and set(rows["timer"]) == {"wallclock_median_cold"}
    described = yaml.safe_load(table.with_suffix(".yaml").read_text())
    assert described["device"]["device"] == "bench-1core"
    assert described["machine"]["torch"] == "2.13.0+cpu"
    assert described["rows"] == 2 and list(described["refused"].values()) == [1]


def test_the_table_of_models_keeps_other_models_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dse.proxy.measure import models

    def measured(name: str, machine: Machine) -> dict[str, object]:
        return dict.fromkeys(models.COLUMNS, 1.0) | {"model": name, "device": machine.device, "framework": "torch"}

    monkeypatch.setattr(models, "measure_model", measured)
    out, other = tmp_path / "new" / "models.csv", replace(MACHINE, device="another")
    models.measure_models(["b", "a"], MACHINE, out)
    models.measure_models(["a"], other, out)
    models.measure_models(["a"], MACHINE, out)
    table = pd.read_csv(out)
    assert list(zip(table["device"], table["model"], strict=True)) == [
        ("another", "a"), ("bench-1core", "a"), ("bench-1core", "b"),
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["models.csv"]
    with pytest.raises(DseError, match=r"cannot write .*models\.csv"):
        models.measure_models(["a"], MACHINE, out / "models.csv")


def test_the_device_row_is_one_of_the_device_table() -> None:
    from dse.proxy.devices import read_devices

    devices = read_devices(pd.DataFrame([MACHINE.device_row()]))
    assert devices.loc["bench-1core", "peak_bw_gbs"] == 10.0


def test_templates_are_whole_rows_that_run(templates) -> None:
    for row in templates:
        assert set(OPERATORS[row["op_type"]]) <= set(row), row
        op = operator(row)
        op.call(*(operand.empty("cpu").fill_(1) for operand in op.operands))
        assert op.operand_bytes + op.output_bytes() == row["bytes"]
        assert row["flops"] > 0 or row["op_type"] in ("copy", "embedding")


@pytest.fixture(scope="module")
def spread(templates):
    return list(spread_rows([*templates, LINEAR], 400, seed=3))


def test_the_spread_is_distinct_reproducible_and_within_its_limits(templates, spread) -> None:
    assert [key_of(row) for row in spread_rows([*templates, LINEAR], 50, seed=3)] == [
        key_of(row) for row in spread[:50]
    ]
    assert len({key_of(row) for row in spread}) == 400
    assert {row["op_type"] for row in spread} <= set(SHARES)
    assert len({row["op_type"] for row in spread}) >= 15
    assert {"bf16", "int8", "fp32"} <= {row["dtype"] for row in spread}
    assert max(row["bytes"] for row in spread) <= 1e9
    assert min(row["bytes"] for row in spread) > 0
    sizes = np.log10([row["bytes"] for row in spread])
    assert sizes.max() - sizes.min() > 4


def test_rows_of_the_spread_have_the_work_that_the_tracer_counts(spread) -> None:
    single = [row for row in spread if row["op_type"] not in ("attn_prefill", "linear_attention")]
    for row in [*single[:50], *(row for row in single if row["op_type"] == "embedding")]:  # causal pairs; two products
        (layer,) = traced(operator(row)).layers
        assert layer.flops == pytest.approx(row["flops"], rel=1e-6, abs=1), row
        assert (layer.bytes, layer.weight_bytes) == (row["bytes"], row["weight_bytes"]), row


def test_a_counter_of_a_processor_wraps(tmp_path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("10000000\n")
    (zone / "energy_uj").write_text("9000000\n")
    counter = energy_counter("cpu", tmp_path)
    assert counter is not None and counter.name == "RAPL"
    before = counter.read()
    assert counter.power_since(before, least_s=60.0) is None
    (zone / "energy_uj").write_text("1000000\n")  # 1 J to the end, 1 J from the start
    start = time.perf_counter()
    time.sleep(0.01)
    power = counter.power_since(before, least_s=0.0)
    assert power is not None and 0 < power * (time.perf_counter() - before.at_s) >= 2.0 * 0.99
    assert power <= 2.0 / (start - before.at_s + 0.01) * 1.01
    assert energy_counter("cpu", tmp_path / "nothing") is None


def test_the_command_measures_a_model_and_resumes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dse.proxy.measure.machine.describe_machine", lambda kind, name: MACHINE)
    out, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    arguments = [
        "proxy",
        "measure",
        "videovit-tiny",
        "--shapes",
        "catalogue",
        "--ops",
        "softmax,layernorm,attn_encoder",
    ]
    arguments += ["--out", str(out), "--table", str(table), "--json"]
    first, second = (CliRunner().invoke(cli, arguments, catch_exceptions=False) for _ in range(2))
    answers = [json.loads(done.stdout) for done in (first, second)]
    assert answers[0]["measured"] == answers[1]["known"] == len(read_lines(out)) > 0
    assert answers[1]["measured"] == 0 and answers[0]["refused"] == []
    assert {row["op_type"] for row in answers[0]["rows"]} == {"layernorm", "attn_encoder"}
    assert len(pd.read_parquet(table)) == answers[0]["measured"]


def test_the_command_measures_whole_models(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dse.proxy.measure.machine.describe_machine", lambda kind, name: MACHINE)
    out = tmp_path / "models.csv"
    arguments = ["proxy", "measure", "--models", "videovit-tiny", "--out", str(out), "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    (row,) = json.loads(done.stdout)["models"]
    assert row["min_ms"] <= row["latency_ms"] <= row["max_ms"]
    table = pd.read_csv(out)
    assert list(table["model"]) == ["videovit-tiny"]
    import workloads

    peak = workloads.peak_memory(workloads.load("videovit-tiny")).bytes / 1e6
    assert table["peak_memory_mb"].iloc[0] == pytest.approx(peak, rel=0.2)


def test_the_command_refuses_what_it_does_not_know() -> None:
    done = CliRunner().invoke(cli, ["proxy", "measure", "--ops", "conv2d,convs"])
    assert done.exit_code == 2 and "convs" in done.stderr
    if not torch.cuda.is_available():
        done = CliRunner().invoke(cli, ["proxy", "measure", "--device", "cuda"])
        assert done.exit_code == 1 and "no GPU" in done.stderr


def test_what_ships_is_checked_complete_and_physical() -> None:
    """The measured tables of dse/proxy/measured: read as any team's rows are, and no product beats its machine."""
    from dse.proxy.own_data import own_layers, own_models
    from workloads import catalog

    rows, devices = own_layers()
    assert len(rows) >= 6000 and set(rows["device"]) == set(devices.index)
    assert {"fp32", "bf16", "int8"} <= set(rows["dtype"])
    assert set(SHARES) <= set(rows["op_type"])
    assert (rows["latency_ms"] > 0).all() and (rows["mem_mb"] * 1e6 >= 0.999 * rows["weight_bytes"]).all()
    peaks = {"fp32": "peak_fp32_tflops", "bf16": "peak_fp16_tensor_tflops", "int8": "peak_int8_tops"}
    products = rows[rows["op_type"] == "matmul"]
    for dtype, column in peaks.items():
        some = products[products["compute_dtype"] == dtype]
        reached = some["flops"] / some["latency_ms"] / 1e9
        assert (reached <= 1.02 * some["device"].astype(str).map(devices[column])).all(), dtype
    models = own_models()
    for device, table in models.groupby("device"):
        assert device in devices.index and sorted(table["model"]) == catalog.names()
        assert (table["min_ms"] <= table["latency_ms"]).all() and (table["peak_memory_mb"] > 0).all()
