"""What a datasheet says of its array is checked, named where it is wrong, and handed to cost models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from chiplib import ChipError, Dataflow, DataflowCode, PeArray, load_library
from chiplib.chip import Precision
from chiplib.features import chip_features

ARRAY = {
    **{"rows": 32, "columns": 16, "dataflow": "weight_stationary", "clock_hz": 1e9, "vector_lanes": 16},
    **{"input_sram_kb": 64, "weight_sram_kb": 32, "output_sram_kb": 16},
}
CHIP = {
    **{"name": "npu", "peak_flops": {"int8": 1.024e12, "fp16": 2.56e11}, "peak_bw": 1e10, "mem_gb": 1},
    **{"area_mm2": 25, "width_mm": 5, "height_mm": 5, "tdp_w": 2},
}


def load(tmp_path, **changes):
    path = tmp_path / "chips.yaml"
    array = {key: value for key, value in (ARRAY | changes).items() if value is not None}
    path.write_text(yaml.safe_dump({"chip_types": [CHIP | {"pe_array": array}]}))
    return load_library(path).chip("npu")


def test_a_datasheet_with_an_array_is_read(tmp_path):
    chip = load(tmp_path, butterflies=4)
    assert chip.pe_array.dataflow is Dataflow.WEIGHT and chip.pe_array.code is DataflowCode.WEIGHT
    assert chip.pe_array.peak_flops == 1.024e12
    whole, slow, none = chip_features([chip], Precision.INT8), chip_features([chip], Precision.FP16), [chip]
    assert (whole["pe_rows"][0], whole["pe_columns"][0], whole["butterflies"][0]) == (32, 16, 4)
    assert (whole["pe_input_sram_bytes"][0], whole["pe_dataflow"][0]) == (64e3, 1)
    assert slow["pe_clock_hz"][0] == whole["pe_clock_hz"][0] / 4  # a quarter of the peak
    assert slow["vector_clock_hz"][0] == whole["vector_clock_hz"][0]
    assert chip_features(none, Precision.FP32)["pe_clock_hz"][0] == 0  # no such peak
    assert chip_features([replace(chip, pe_array=None)], Precision.INT8)["pe_rows"][0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, r"\(npu\)\.pe_array\.rows is 0 .*above 0"),
        ({"columns": 2.5}, r"pe_array\.columns is 2\.5 .*whole number"),
        ({"clock_hz": -1}, r"pe_array\.clock_hz is -1"),
        ({"dataflow": "weight-stationary"}, r"'weight-stationary' is unknown .*'weight_stationary'"),
        ({"input_sram_kb": None}, r"pe_array\.input_sram_kb: missing"),
        ({"lanes": 4}, r"pe_array\.lanes: unknown key .*vector_lanes"),
        ({"butterflies": -1}, r"pe_array\.butterflies is -1"),
        ({"clock_hz": 2e9}, r"pe_array of chip 'npu' peaks at 2\.048e\+12 .*highest of peak_flops is 1\.024e\+12"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(ChipError, match=message):
        load(tmp_path, **changes)


def test_an_array_made_in_python_is_checked_too():
    good = PeArray(**ARRAY | {"dataflow": Dataflow.INPUT})
    for key in ("rows", "clock_hz", "output_sram_kb", "vector_lanes"):
        with pytest.raises(ChipError, match=f"{key} of a pe_array is 0"):
            replace(good, **{key: 0})
    with pytest.raises(ChipError, match="butterflies"):
        replace(good, butterflies=-1)
    with pytest.raises(ChipError, match=r"'output'.*'output_stationary'"):
        replace(good, dataflow="output")
    assert replace(good, dataflow="output_stationary").code is DataflowCode.OUTPUT
