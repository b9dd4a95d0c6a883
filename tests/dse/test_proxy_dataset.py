"""Rows of measured operators: what is refused, with which row numbers, and the work that follows from shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dse.errors import DseError
from dse.proxy import layer_rows
from dse.proxy.columns import COLUMNS
from dse.proxy.dataset import (
    beats_physics,
    load_public,
    read_devices,
    read_rows,
    tidy,
    work_of_rows,
    write_rows,
)
from dse.proxy.work import compute_dtypes

NAMED = {"source": "lab", "framework": "torch-2", "timer": "event_mean", "device": "chip-a"}
PRODUCT = {"op_type": "matmul", "op_name": "gemm", "dtype": "fp16", "m": 8, "n": 16, "k": 32}


def product_rows(count: int) -> pd.DataFrame:
    """Rows of one product, measured again and again."""
    return pd.DataFrame([NAMED | PRODUCT] * count).assign(latency_ms=np.arange(1, count + 1) / 64)


def one(**row: Any) -> pd.DataFrame:
    return pd.DataFrame([NAMED | {"latency_ms": 0.5} | row])


def device_table(**changes: Any) -> pd.DataFrame:
    row = {"device": "chip-a", "vendor": "acme", "family": "one", "peak_fp16_tensor_tflops": 100.0, "peak_bw_gbs": 1e3}
    return pd.DataFrame([row | changes])


def refusal(frame: pd.DataFrame, **options: Any) -> str:
    with pytest.raises(DseError) as caught:
        read_rows(frame, **options)
    return str(caught.value)


def numbers_of(message: str) -> tuple[list[int], int]:
    """Return the rows that a message of one problem names, and how many it says there are."""
    found = re.search(r"rows? ([\d, ]*\d)(?:, \.\.\. \(([\d,]+) rows\))?:", message)
    assert found, message
    rows = [int(row) for row in found[1].split(", ")]
    return rows, int(found[2].replace(",", "")) if found[2] else len(rows)


BAD_VALUES = [
    ("latency_ms", np.nan, "missing"),
    ("latency_ms", 0.0, "zero"),
    ("latency_ms", -0.25, "negative"),
    ("latency_ms", np.inf, "infinite"),
    ("power_w", -3.0, "negative"),
    ("mem_mb", 0.0, "zero"),
    ("m", -8.0, "from 1"),
    ("m", 8.5, "not whole"),
    ("k", np.inf, "from 1"),
    ("n", np.nan, "matmul needs"),
    ("flops", -1.0, "not positive"),
    ("op_type", "matmull", "did you mean 'matmul'"),
    ("dtype", "fp61", "did you mean"),
    ("device", "chip-b", "not in the device table"),
    ("op_name", None, "missing"),
    ("m", "many", "not a number"),
]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(BAD_VALUES), st.data(), st.integers(12, 40))
def test_bad_values_are_refused_with_their_row_numbers(
    bad: tuple[str, Any, str], data: st.DataObject, count: int
) -> None:
    column, value, reason = bad
    wrong = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count)))
    frame = product_rows(count)
    frame["power_w"], frame["mem_mb"], frame["flops"] = 100.0, 10.0, 8192.0
    values = frame[column].astype(object).to_list()
    for row in wrong:
        values[row] = value
    frame[column] = values
    message = refusal(frame, devices=read_devices(device_table()))
    assert reason in message and column in message
    named, total = numbers_of(message)
    assert named == [row + 1 for row in wrong[:10]] and total == len(wrong)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_is_named_with_the_rows_that_its_reader_counts(tmp_path: Path, suffix: str) -> None:
    frame, path = product_rows(5), tmp_path / f"mine{suffix}"
    frame.loc[3, "latency_ms"] = -2.0
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    with pytest.raises(DseError, match=rf"mine\{suffix}: row 4: latency_ms = -2.0: negative") as caught:
        read_rows(path)
    assert "positive" in caught.value.hint


def test_text_among_the_numbers_of_a_csv_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    frame = product_rows(4).astype({"latency_ms": object})
    frame.loc[2, "latency_ms"] = "3 ms"
    frame.to_csv(path, index=False)
    with pytest.raises(DseError, match="row 3: latency_ms = '3 ms': not a number"):
        read_rows(path)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    frame = product_rows(6)
    frame["m"] = [8, 8, 8, 8, 2.5, 8]
    frame.loc[0, "latency_ms"] = np.nan
    message = refusal(frame)
    assert "2 things are wrong" in message and "row 1: latency_ms" in message and "row 5: m" in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"latency_ms": "latencyms"}, "unknown column 'latencyms' (did you mean 'latency_ms'?)"),
        ({"latency_ms": "latency_min"}, "unknown unit 'min' of column 'latency_min' (one of latency_ms, latency_us"),
        ({"latency_ms": "latency"}, "column 'latency' has no unit"),
        ({"framework": "frame_work"}, "did you mean 'framework'"),
        ({"m": "flavour"}, "unknown column 'flavour'"),
    ],
)
def test_columns_and_units_that_are_not_known_are_refused(columns: dict[str, str], message: str) -> None:
    assert message in refusal(product_rows(2).rename(columns=columns))


@pytest.mark.parametrize("column", ["framework", "device", "op_type", "dtype", "latency_ms"])
def test_missing_columns_are_named(column: str) -> None:
    assert f"missing column {column}" in refusal(product_rows(2).drop(columns=column))


def test_two_latencies_and_a_unit_that_contradicts_the_column_are_refused() -> None:
    assert "both latency_ms and latency_us" in refusal(product_rows(2).assign(latency_us=3.0))
    assert "'unit' says 'us'" in refusal(product_rows(2).assign(unit="us"))
    assert "row 2: unit = 'parsec'" in refusal(product_rows(2).assign(unit=["ms", "parsec"]))
    assert "row 2: unit = 'us': another unit" in refusal(product_rows(2).assign(unit=["ms", "us"]))


@pytest.mark.parametrize(("unit", "in_ms"), [("ms", 1.0), ("us", 1e-3), ("ns", 1e-6), ("s", 1e3)])
def test_times_come_in_any_unit(unit: str, in_ms: float) -> None:
    frame = product_rows(3)
    expected = frame["latency_ms"].to_numpy()
    scaled = frame.assign(latency_ms=expected / in_ms)
    for given_as in (
        scaled.rename(columns={"latency_ms": f"latency_{unit}"}),
        scaled.rename(columns={"latency_ms": "latency"}).assign(unit=unit),
    ):
        np.testing.assert_allclose(read_rows(given_as)["latency_ms"], expected, rtol=1e-6)
    scaled.loc[1, "latency_ms"] = -7.0
    assert f"row 2: latency_{unit} = -7.0" in refusal(scaled.rename(columns={"latency_ms": f"latency_{unit}"}))


def test_power_and_memory_come_in_their_units() -> None:
    read = read_rows(product_rows(1).assign(power_mw=2500.0, mem_bytes=3e6))
    assert read["power_w"].item() == 2.5 and read["mem_mb"].item() == 3.0


def test_the_same_measurement_twice_is_refused_and_a_repeat_is_not() -> None:
    frame = product_rows(6)
    assert len(read_rows(frame)) == 6  # one operator, six times measured
    frame.loc[4, "latency_ms"] = frame.loc[1, "latency_ms"]
    assert numbers_of(refusal(frame)) == ([5], 1)
    frame["power_w"] = [100.0, 100.0, 100.0, 100.0, 101.0, 100.0]
    assert len(read_rows(frame)) == 6  # another power: measured again
    assert len(read_rows(product_rows(1).loc[[0, 0]], measured=False)) == 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_repeated_rows_are_those_that_pandas_finds(sizes: list[int]) -> None:
    frame = product_rows(1).loc[[0] * len(sizes)].assign(m=[size + 1 for size in sizes])
    expected = np.flatnonzero(frame.duplicated().to_numpy()) + 1
    if len(expected):
        assert numbers_of(refusal(frame)) == (expected[:10].tolist(), len(expected))
    else:
        read_rows(frame)


def test_a_folder_is_read_as_one_table_and_copies_in_another_file_are_found(tmp_path: Path) -> None:
    frame = product_rows(4)
    frame.iloc[:2].to_csv(tmp_path / "a.csv", index=False)
    frame.iloc[2:].assign(op_name="bmm", power_w=9.0).to_parquet(tmp_path / "b.parquet")
    rows = read_rows(tmp_path)
    assert rows["op_name"].tolist() == ["gemm", "gemm", "bmm", "bmm"]
    assert rows["power_w"].isna().tolist() == [True, True, False, False]
    frame.iloc[[3, 1]].to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DseError, match=r"c\.csv: row 2: .*in another file"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"", "cannot be read"),
        ("rows.csv", b"m,n\n1\n", "cannot be read"),
        ("rows.csv", b"m,n\n", "missing columns"),
        ("rows.csv", b"m,m\n1,2\n", "twice"),
        ("rows.parquet", b"not parquet", "cannot be read"),
        ("rows.xlsx", b"PK", "not a table"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DseError, match=f"{name}.*{message}"):
        read_rows(tmp_path / name)


def test_a_table_without_rows_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    assert "no rows" in refusal(product_rows(1).iloc[:0])
    (tmp_path / "mine.csv").touch()
    with pytest.raises(DseError, match=r"did you mean 'mine\.csv'"):
        read_rows(tmp_path / "mina.csv")
    with pytest.raises(DseError, match="no tables in this folder"):
        (tmp_path / "empty").mkdir()
        read_rows(tmp_path / "empty")


def test_written_rows_are_read_back_the_same_and_nothing_half_written_stays(tmp_path: Path) -> None:
    rows = read_rows(product_rows(5).assign(kernel_source=["a", "b", None, "a", "c"]))
    write_rows(rows, tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.parquet"), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DseError, match="cannot write"):
        write_rows(rows, tmp_path / "folder.parquet")
    assert not list(tmp_path.glob(".*"))


def test_an_operator_without_a_rule_needs_its_work() -> None:
    frame = one(op_type="fft", op_name="rfft", dtype="fp32", rows=4, cols=512)
    assert "no rule gives it" in refusal(frame)
    assert read_rows(frame.assign(flops=5e4, bytes=2e4, weight_bytes=0))["flops"].item() == 5e4


@pytest.mark.parametrize("op_type", ["conv2d", "attn_prefill", "moe", "softmax", "recurrent"])
def test_shapes_that_an_operator_needs_are_asked_for(op_type: str) -> None:
    message = refusal(one(op_type=op_type, op_name="x", dtype="fp16", m=1))
    assert f"{op_type} needs" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peak_bw_gbs": np.nan}, "row 1: peak_bw_gbs: missing"),
        ({"peak_bw_gbs": -1.0}, "row 1: peak_bw_gbs = -1.0: not positive"),
        ({"peak_fp16_tensor_tflops": np.nan}, "has no peak at all"),
        ({"peak_fp16_tensor_tflops": 0.0}, "not positive"),
        ({"tdp_w": np.inf}, "row 1: tdp_w = inf"),
        ({"l2_mb": "large"}, "row 1: l2_mb = 'large': not a number (a number in MB"),
        ({"device": None}, "row 1: device: missing"),
        ({"peak_bandwidth_gbs": 3.0}, "unknown column 'peak_bandwidth_gbs' (did you mean 'peak_bw_gbs'"),
    ],
)
def test_device_tables_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DseError, match=re.escape(message)):
        read_devices(device_table(**changes))


def test_a_device_is_in_its_table_once_and_has_a_peak_for_what_was_measured_on_it() -> None:
    with pytest.raises(DseError, match="row 2: device = 'chip-a': this device is there already"):
        read_devices(pd.concat([device_table(), device_table()]))
    devices = read_devices(device_table())
    assert read_devices(devices).equals(devices)
    message = refusal(product_rows(3).assign(dtype="int8"), devices=devices)
    assert "rows 1, 2, 3: compute_dtype = 'int8'" in message and "peak_int8_tops" in message


def test_rows_that_beat_physics_are_found_not_refused() -> None:
    devices = read_devices(device_table(l2_mb=1.0))
    size = 1000.0  # 2e9 FLOP: 0.02 ms at 1e14 FLOP/s; 6 MB: 0.006 ms at 1e12 B/s
    frame = product_rows(1).assign(m=size, n=size, k=size)
    rows = read_rows(pd.concat([frame.assign(latency_ms=time) for time in (0.0088, 0.0092)]), devices=devices)
    assert beats_physics(rows, devices).tolist() == [True, False]
    thin = product_rows(1).assign(m=1, n=2000, k=2000)  # 8 MB of weights: 0.008 ms; 1 MB in 512 columns stays in L2
    small = thin.assign(n=200, latency_ms=1e-4)
    rows = read_rows(pd.concat([thin.assign(latency_ms=0.0075), thin.assign(latency_ms=0.0085), small]))
    assert beats_physics(rows, devices).tolist() == [True, False, False]


def test_the_columns_hold_those_of_the_layers_of_a_graph() -> None:
    assert set(layer_rows.LAYER_COLUMNS) <= set(COLUMNS)


# ---------------------------------------------------------------- work


def work(**row: Any) -> tuple[float, float, float]:
    found = work_of_rows(tidy(one(**row), "here"))
    return found["flops"].item(), found["bytes"].item(), found["weight_bytes"].item()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_product_moves_the_bytes_of_its_arrays(batch: int) -> None:
    m, n, k = 5, 7, 11
    a, b, c = (np.zeros((batch, *shape), np.float16) for shape in ((m, k), (k, n), (m, n)))
    flops, moved, weights = work(**PRODUCT | {"m": m, "n": n, "k": k, "batch": batch})
    assert (flops, moved) == (2 * batch * m * n * k, a.nbytes + b.nbytes + c.nbytes)
    assert weights == (b.nbytes if batch == 1 else 0)
    linear = work(**PRODUCT | {"op_name": "linear", "m": m, "n": n, "k": k})
    assert linear[:2] == (2 * m * n * k + m * n, 2 * (m * k + k * n + m * n + n))


@pytest.mark.parametrize(
    ("dtype", "left", "right", "out"),
    [("fp32", 4, 4, 4), ("fp8", 2, 1, 2), ("nvfp4", 2, 0.5625, 2), ("int8", 1, 1, 2), ("int4_wo", 2, 0.5, 2)],
)
def test_narrow_weights_count_at_their_width(dtype: str, left: float, right: float, out: float) -> None:
    _, moved, weights = work(**PRODUCT | {"dtype": dtype, "m": 64, "n": 128, "k": 256})
    assert (moved, weights) == (64 * 256 * left + 128 * 256 * right + 64 * 128 * out, 128 * 256 * right)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(3, 8), st.integers(1, 2))
def test_a_convolution_counts_what_its_loops_do(
    batch: int, cin: int, cout: int, kernel: int, size: int, stride: int
) -> None:
    out = (size - kernel) // stride + 1
    macs = sum(
        1
        for _ in range(batch * cout * cin)
        for y in range(0, size - kernel + 1, stride)
        for x in range(0, size - kernel + 1, stride)
        for _ in range(kernel * kernel)
    )
    shape = {"batch": batch, "cin": cin, "cout": cout, "kh": kernel, "kw": kernel, "stride": stride}
    planes = {"hin": size, "win": size, "hout": out, "wout": out}
    flops, moved, weights = work(op_type="conv2d", op_name="conv", dtype="fp32", **shape, **planes)
    arrays = (batch, cin, size, size), (batch, cout, out, out), (cout, cin, kernel, kernel)
    assert flops == 2 * macs
    assert moved == sum(np.zeros(each, np.float32).nbytes for each in arrays)
    assert weights == np.zeros(arrays[2], np.float32).nbytes


def test_convolutions_of_known_networks() -> None:
    stem = {"batch": 1, "cin": 3, "cout": 64, "kh": 7, "kw": 7, "stride": 2, "pad": 3, "hin": 224, "win": 224}
    flops, _, weights = work(op_type="conv2d", op_name="conv", dtype="fp32", **stem, hout=112, wout=112)
    assert flops == 2 * 118_013_952 and weights == 4 * 9_408  # ResNet-50's first layer (arXiv:1512.03385)
    depthwise = {"batch": 1, "cin": 512, "cout": 512, "groups": 512, "kw": 3, "pad": 1, "win": 1000, "wout": 1000}
    flops, _, weights = work(op_type="conv1d", op_name="conv", dtype="fp32", **depthwise)
    assert flops == 2 * 512 * 3 * 1000 and weights == 4 * 512 * 3
    up = {"batch": 1, "cin": 8, "cout": 4, "kw": 8, "stride": 4, "win": 10, "wout": 44}
    assert work(op_type="conv_transpose1d", op_name="conv", dtype="fp32", **up)[0] == 2 * 10 * 8 * 4 * 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 16))
def test_causal_attention_counts_the_pairs_that_its_mask_leaves(queries: int, cached: int, window: int) -> None:
    keys = queries + cached
    pairs = sum(
        1
        for query in range(queries)
        for key in range(keys)
        if key <= query + cached and (window == 0 or key > query + cached - window)
    )
    shape = {"batch": 2, "heads": 6, "kv_heads": 3, "head_dim": 8, "seq_q": queries, "seq_kv": keys, "window": window}
    flops, moved, weights = work(op_type="attn_prefill", op_name="context", dtype="bf16_kvfp8", **shape)
    assert flops == 4 * 2 * 6 * 8 * pairs and weights == 0
    assert moved == 2 * 2 * (2 * 6 * queries * 8) + 2 * (2 * 3 * keys * 8)


def test_experts_and_what_runs_along_rows() -> None:
    expert = {"m": 3, "n": 5, "k": 7, "experts": 64, "topk": 2}
    flops, moved, weights = work(op_type="moe", op_name="fused_moe", dtype="bf16", **expert)
    assert flops == 2 * (3 * 2) * 3 * 5 * 7 and weights == 6 * 3 * 5 * 7 * 2 and moved == weights + 2 * 2 * 3 * 7
    assert work(**{"op_type": "moe", "op_name": "x", "dtype": "bf16"} | expert | {"m": 99})[2] == 64 * 3 * 5 * 7 * 2
    rows = {"dtype": "fp32", "rows": 10, "cols": 20}
    assert work(op_type="softmax", op_name="softmax", **rows) == (5 * 200, 8 * 200, 0)
    assert work(op_type="layernorm", op_name="rmsnorm", **rows) == (4 * 200, 8 * 200, 0)
    assert work(op_type="elementwise", op_name="add", **rows) == (200, 12 * 200, 0)
    assert work(op_type="elementwise", op_name="gelu", **rows) == (10 * 200, 8 * 200, 0)
    assert np.isnan(work(op_type="elementwise", op_name="nobody knows", **rows)[0])


# ---------------------------------------------------------------- the public table


def test_the_measured_table_is_read_and_its_work_follows_from_its_shapes(
    measured: Callable[[str], Path], tmp_path: Path
) -> None:
    table = pd.read_parquet(measured("proxy/tidy.parquet")).sample(60_000, random_state=0)
    pd.concat([table, table.iloc[:3]]).to_parquet(tmp_path / "tidy.parquet")  # three measurements twice
    (tmp_path / "devices.csv").symlink_to(measured("proxy/devices.csv"))
    sample, devices = load_public(tmp_path)
    assert len(sample) == 60_000 and devices.index.is_unique
    work = work_of_rows(sample)
    # where a name tells it all: vidur's silu_mul has rows without a gate, LLMServingSim's norms carry its layers' names
    told = ~((sample["op_name"] == "silu_mul") | sample["op_name"].isin(["layernorm", "final_layernorm"]))
    for name in ("flops", "bytes", "weight_bytes"):
        np.testing.assert_allclose(work[name][told], sample[name][told].astype(np.float64), rtol=3e-7, atol=0.5)
    assert (compute_dtypes(sample["op_type"], sample["dtype"]) == sample["compute_dtype"].astype(object)).all()
    with pytest.raises(DseError, match="rows 60001, 60002, 60003: latency_ms"):
        read_rows(tmp_path / "tidy.parquet", devices=devices)
