"""`dse proxy ingest`: what is taken from public sets, what is refused and counted, and what a user is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli
from dse.errors import DseError
from dse.proxy.dataset import read_devices, read_rows
from dse.proxy.ingest import PUBLIC_SETS, ingest

A100_BYTES_PER_S = 2.039e12  # NVIDIA A100-SXM4-80GB datasheet
A100_FP16_FLOPS = 312e12


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["proxy", "ingest", *arguments], prog_name="dse")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of public sets: ten rows, of which four are wrong, and raw sets beside them."""
    devices = pd.DataFrame(
        {
            "device": ["A100-SXM4-80GB", "MI25"],
            "vendor": ["nvidia", "amd"],
            "family": ["Ampere", "GCN5"],
            "peak_fp32_tflops": [19.5, 12.29],
            "peak_fp16_tensor_tflops": [312.0, 24.58],
            "peak_bw_gbs": [2040.0, 484.0],
            "l2_mb": [40.0, 4.0],
        }
    )
    devices.to_csv(tmp_path / "devices.csv", index=False)
    rows = pd.DataFrame({"m": [1024.0] * 10, "n": 1024.0, "k": 1024.0, "latency_ms": np.arange(1, 11) / 64})
    rows = rows.assign(source="vidur", framework="f", timer="t", device="A100-SXM4-80GB", op_type="matmul")
    rows = rows.assign(op_name="gemm", dtype="fp16", row_id=range(10))
    rows.loc[0, ["source", "m", "n", "k", "latency_ms"]] = ["llmcompass", 64.0, 96.0, 32.0, 0.25]
    rows.loc[2, "latency_ms"], rows.loc[3, "latency_ms"], rows.loc[4, "m"] = -1.0, np.nan, 0.5
    rows.loc[6, "latency_ms"] = rows.loc[5, "latency_ms"]
    rows.loc[7, "latency_ms"] = 0.002  # 0.0069 ms at the peak, 0.0031 with Winograd
    rows.to_parquet(tmp_path / "tidy.parquet")
    raw = tmp_path / "llmcompass"
    raw.mkdir()
    (raw / "matmul_A100.csv").write_text("64, 96, 32, 0.2500ms, 0.0016Tflops\n64, 48, 32, 0.2000ms, 0.0010Tflops\n")
    (raw / "gelu_A100.csv").write_text("1024, 0.02\n1048576, 20.0\n")
    tensile = tmp_path / "rocblas_tensile"
    tensile.mkdir()
    shape = {"m": [64, 64, 64], "n": 128, "k": 256, "batch": 1, "gflops": [1000.0, 900.0, 2000.0]}
    names = {"dev": ["vega10", "navi21", "vega10"], "tA": "Ailk", "tB": "Bjlk", "prec": ["SB", "SB", "I8II_BH"]}
    pd.DataFrame(shape | names).to_parquet(tensile / "gflops_only.parquet")
    return tmp_path


def test_wrong_rows_are_left_out_and_counted_by_reason(folder: Path) -> None:
    found = ingest(folder)
    assert found.refused == {
        ("vidur", "latency_ms: negative"): 1,
        ("vidur", "latency_ms: missing"): 1,
        ("vidur", "m: not a finite number from 1"): 1,
        ("vidur", "latency_ms: the same measurement is there already"): 1,
        ("llmcompass", "is in tidy.parquet already"): 1,
    }
    assert found.counts("source") == {"vidur": 5, "llmcompass": 4}
    assert found.rows["latency_ms"][found.beyond_physics].tolist() == [np.float32(0.002)]
    read_rows(found.rows, devices=found.devices)  # what is left is right


def test_llmcompass_throughput_is_in_billions_of_elements_a_second(folder: Path) -> None:
    rows = ingest(folder).rows
    gelu = rows[rows["op_name"] == "gelu"]
    assert gelu["cols"].tolist() == [1024, 1048576]
    np.testing.assert_allclose(gelu["latency_ms"], [1024 / 0.02e9 * 1e3, 1048576 / 20e9 * 1e3], rtol=1e-6)
    product = rows[(rows["source"] == "llmcompass") & (rows["n"] == 48)]
    assert (product["k"].item(), product["latency_ms"].item()) == (32, np.float32(0.2))


def test_low_quality_is_asked_for_and_keeps_its_name(folder: Path) -> None:
    assert "rocblas_tensile" not in ingest(folder).counts("source")
    found = ingest(folder, include_low_quality=True)
    taken = found.rows[found.rows["source"] == "rocblas_tensile"]
    assert taken["device"].tolist() == ["MI25"] and taken["op_name"].tolist() == ["gemm_NT"]
    assert taken["latency_ms"].item() == pytest.approx(2 * 64 * 128 * 256 / 1e12 * 1e3)
    assert sum(count for (source, _), count in found.refused.items() if source == "rocblas_tensile") == 2


def test_the_command_writes_the_table_and_sums_it_up(folder: Path) -> None:
    out = folder / "out" / "rows.parquet"
    done = invoke(str(folder), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "9 rows" in done.output and "latency_ms: negative" in done.output and "BSD-3-Clause" in done.output
    assert len(read_rows(out, devices=read_devices(folder / "devices.csv"))) == 9
    answer = json.loads(invoke(str(folder), "--json").stdout)
    assert answer["rows"] == 9 and answer["by_op_type"] == {"matmul": 7, "elementwise": 2}
    assert sum(each["rows"] for each in answer["refused"]) == 5
    assert answer["licences"]["vidur"]["licence"] == "MIT" and answer["beyond_physics"] == {"vidur": 1}


def test_the_folder_may_be_named_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHIPFRONT_DATA", raising=False)
    asked = invoke()
    assert asked.exit_code == 1 and "CHIPFRONT_DATA" in asked.output
    (folder.parent / "proxy").symlink_to(folder)
    monkeypatch.setenv("CHIPFRONT_DATA", str(folder.parent))
    assert json.loads(invoke("--json").stdout)["rows"] == 9


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    nowhere = invoke(str(tmp_path / "nowhere"))
    assert nowhere.exit_code == 1 and "no such folder" in nowhere.output and "Traceback" not in nowhere.output
    assert invoke(str(folder), "--out", "rows.xlsx").exit_code == 2
    (folder / "llmcompass" / "gelu_A100.csv").write_text("1024\n")
    with pytest.raises(DseError, match=r"gelu_A100\.csv: 1 columns, not 2"):
        ingest(folder)
    (folder / "devices.csv").unlink()
    with pytest.raises(DseError, match=r"devices\.csv: no such file"):
        ingest(folder)


def test_every_set_states_its_licence() -> None:
    for name, origin in PUBLIC_SETS.items():
        assert len(origin.commit) == 40 and origin.repository.startswith("github.com/"), name
        assert origin.licence in ("Apache-2.0", "MIT", "BSD-3-Clause"), name


def test_the_measured_sets_come_together(measured: Callable[[str], Path], tmp_path: Path) -> None:
    table = pd.read_parquet(measured("proxy/tidy.parquet"))
    sample = pd.concat([table.sample(20_000, random_state=0), table[table["source"] == "llmcompass"]])
    sample.drop_duplicates().to_parquet(tmp_path / "tidy.parquet")
    (tmp_path / "devices.csv").symlink_to(measured("proxy/devices.csv"))
    (tmp_path / "llmcompass").symlink_to(measured("proxy/llmcompass/gelu_A100.csv").parent)
    found = ingest(tmp_path)
    assert found.refused == {("llmcompass", "is in tidy.parquet already"): 20}
    assert set(found.licences) == set(found.counts("source"))  # no source without a licence
    ours = found.rows[found.rows["source"] == "llmcompass"]
    assert ours["op_type"].astype(str).value_counts().to_dict() == {
        "matmul": 20,
        "softmax": 22,
        "layernorm": 22,
        "elementwise": 20,
    }
    # the unit that was found: no time beats physics, and the largest GELU runs as a streaming operator does
    seconds = ours["latency_ms"].astype(np.float64) * 1e-3
    assert (ours["flops"] / seconds < A100_FP16_FLOPS).all() and not found.beyond_physics[ours.index].any()
    largest = ours[ours["op_name"] == "gelu"].nlargest(1, "cols")
    share = largest["bytes"].item() / (largest["latency_ms"].item() * 1e-3) / A100_BYTES_PER_S
    assert 0.7 < share < 0.95
    # the files' clock is a Unix time in seconds in double precision, whose step was 2^-22 s; medians halve it
    steps = seconds[ours["op_type"] != "matmul"] * 2**23
    assert np.abs(steps - steps.round()).max() < 0.02 * np.maximum(1, 1e-4 * steps.max())
