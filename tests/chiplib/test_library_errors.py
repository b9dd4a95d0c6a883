"""Bad library files: every error at once, each with its path, its value and what would be right."""

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chiplib import ChipError, ChipType, load_library

GOOD = {
    "name": "c",
    "peak_flops": 1e14,
    "peak_bw": 1e12,
    "mem_gb": 24,
    "area_mm2": 600,
    "width_mm": 25,
    "height_mm": 24,
    "tdp_w": 350,
}
PACKAGE = {
    "name": "p", "kind": "board", "shape": "rectangle", "width_mm": 90, "height_mm": 50, "rows": 1, "columns": 2,
    "slot_width_mm": 40, "slot_height_mm": 40, "link": "grs",
}  # fmt: skip

Load = Callable[..., ChipError]


@pytest.fixture
def refused(tmp_path: Path) -> Load:
    """Write chips (or text) to a file, load it, and return the error."""

    def load(*chips: object, text: str | None = None, **sections: object) -> ChipError:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"chip_types": list(chips), **sections}) if text is None else text)
        with pytest.raises(ChipError) as error:
            load_library(path)
        assert str(path) in error.value.message
        return error.value

    return load


def without(key: str) -> dict[str, object]:
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    ("chip", "message", "hint"),
    [
        (GOOD | {"peak_bw": -1e12}, "chip_types[0] (c).peak_bw is -1000000000000.0", "a number above 0"),
        (GOOD | {"peak_flops": -1}, "chip_types[0] (c).peak_flops is -1", "a number above 0"),
        (GOOD | {"peak_bw": 0}, "chip_types[0] (c).peak_bw is 0", "a number above 0"),
        (GOOD | {"mem_gb": float("nan")}, "chip_types[0] (c).mem_gb is nan", "a finite number"),
        (GOOD | {"tdp_w": float("inf")}, "chip_types[0] (c).tdp_w is inf", "a finite number"),
        (GOOD | {"area_mm2": "large"}, "chip_types[0] (c).area_mm2 is 'large'", "a number"),
        (GOOD | {"tdp_w": True}, "chip_types[0] (c).tdp_w is True", "a number"),
        (GOOD | {"missing_operators": ["cnov"]}, "missing_operators of chip 'c' names 'cnov'", "did you mean 'conv'?"),
        (GOOD | {"assumed": ["widht_mm"]}, "assumed of chip 'c' names 'widht_mm'", "did you mean 'width_mm'?"),
        (GOOD | {"source": {"tpd_w": "x"}}, "source of chip 'c' names 'tpd_w'", "did you mean 'tdp_w'?"),
        (
            GOOD | {"rules": [{"operator": "cnov", "parameter": "kernel", "limit": 3}]},
            "a rule is for operator 'cnov'",
            "did you mean 'conv'?",
        ),
        (
            GOOD | {"rules": [{"operator": "conv", "parameter": "kernel"}]},
            "the rule on 'kernel' of 'conv' forbids nothing",
            "a limit or allowed",
        ),
        (GOOD | {"achievable": 1.2}, "chip_types[0] (c).achievable is 1.2", "a number of at most 1"),
        (GOOD | {"achievable": 0}, "chip_types[0] (c).achievable is 0", "a number above 0"),
        (GOOD | {"peak_flops": {"fp16": -1}}, "chip_types[0] (c).peak_flops.fp16 is -1", "a number above 0"),
        (GOOD | {"peak_flops": {"bf16": 1e12}}, "peak_flops.bf16: 'bf16' is unknown", "did you mean 'fp16'?"),
        (GOOD | {"peak_flops": {}}, "peak_flops of chip 'c' is {}", "for each precision"),
        (GOOD | {"peak_bandwith": 1}, "chip_types[0] (c).peak_bandwith: unknown key", "did you mean 'peak_"),
        (GOOD | {"rules": [{"operator": "*", "paramter": "k"}]}, ".rules[0].paramter", "did you mean 'parameter'?"),
        (GOOD | {"memory_type": "HMB2"}, "chip_types[0] (c).memory_type is 'HMB2'", "did you mean 'HBM2'?"),
        (GOOD | {"width_mm": 30}, "width_mm 30 x height_mm 24 = 720 mm2, but area_mm2 is 600", "within 5%"),
        (GOOD | {"idle_w": 400}, "idle_w 400 is not below tdp_w 350", "idle"),
        (GOOD | {"name": ""}, "chip_types[0] ().name is ''", "at least 1 character"),
        (GOOD | {"year": dt.date(2020, 1, 1)}, "year is datetime.date(2020, 1, 1)", "a whole number"),
        (without("tdp_w"), "chip_types[0] (c).tdp_w: missing", "required"),
        (without("name"), "chip_types[0].name: missing", "required"),
        ("big_core", "chip_types[0] is 'big_core'", "a mapping"),
    ],
)  # fmt: skip
def test_one_wrong_value(refused: Load, chip: object, message: str, hint: str) -> None:
    error = refused(chip)
    assert message in error.message + str(error)
    assert hint in str(error)


def test_all_errors_of_a_file_at_once(refused: Load) -> None:
    error = refused(
        GOOD | {"name": "a", "peak_bw": -1, "peek_flops": 3},
        GOOD | {"name": "b"},
        without("tdp_w") | {"name": "d", "mem_gb": "24"},
        GOOD | {"name": "b"},
        links=[{"name": "wire", "bandwidth_gb_s": 0, "latency_ns": 1, "pj_per_bit": 1}],
        packages=[PACKAGE | {"link": "gsr", "kind": "bord"}],
        chips=[],
    )
    assert "9 errors" in error.message
    for line in [
        "chip_types[0] (a).peak_bw is -1",
        "chip_types[0] (a).peek_flops: unknown key (did you mean 'peak_flops'?)",
        "chip_types[2] (d).tdp_w: missing",
        "chip_types[2] (d).mem_gb is '24' (a number)",
        "chip_types[3] (b): chip_types[1] (b) has the same name",
        "links[0] (wire).bandwidth_gb_s is 0",
        "packages[0] (p).link: no link is called 'gsr' (did you mean 'grs'?)",
        "packages[0] (p).kind: 'bord' is unknown (did you mean 'board'?)",
        "chips: unknown key (did you mean 'chip_types'?)",
    ]:
        assert f"\n  {line}" in error.message


def test_wrong_outline_is_accepted_where_assumed_or_of_several_dies(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    chips = [GOOD | {"width_mm": 30, "assumed": ["width_mm"]}, GOOD | {"name": "d", "width_mm": 30, "dies": 2}]
    path.write_text(yaml.safe_dump({"chip_types": chips}))
    assert len(load_library(path).chips) == 2


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "the file is empty", "a mapping"),
        ("# nothing\n", "the file is empty", "a mapping"),
        ("chip_types: [", "line 1", "mend the YAML"),
        ("a: b: c", "line 1, column 5", "mend the YAML"),
        ("- 1\n- 2\n", "top level is [1, 2]", "a mapping"),
        ("just text", "top level is 'just text'", "a mapping"),
        ("chip_types: big_core", "chip_types is 'big_core'", "a list"),
        ("chip_types: []", "chip_types: empty", "at least one"),
        ("links: []", "chip_types: missing", "a list of at least one chip"),
        ("chip_type: []", "chip_type: unknown key", "did you mean 'chip_types'?"),
        ("links:\n  - name: a\n    mem_gb: 1\n    mem_gb: 2\n", "'mem_gb' is given twice, in lines 3 and 4", "once"),
        ("chip_types: !!python/object:os.system {}", "python/object", "mend the YAML"),
        ("chip_types: &a [*a]", "an alias holds itself", "plain lists"),
        ("[" * 5000, "too deep", "flatter"),
        ("{1: 2}", "1: unknown key", "chip_types"),
        ("{\x00: 1}", "not YAML", "a text file"),
    ],
)  # fmt: skip
def test_wrong_files(refused: Load, text: str, message: str, hint: str) -> None:
    error = refused(text=text)
    assert message in str(error) and hint in str(error)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(place=st.sampled_from(["chip_types", "links", "packages", *GOOD, *PACKAGE]), value=anything)
def test_no_value_anywhere_causes_anything_but_a_chip_error(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: object
) -> None:
    data: dict[str, object] = {"chip_types": [GOOD | ({place: value} if place in GOOD else {})]}
    data |= {"packages": [PACKAGE | ({place: value} if place in PACKAGE else {})]}
    data |= {place: value} if place in ("chip_types", "links", "packages") else {}
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(data))
    with suppress(ChipError):
        assert load_library(path).chips


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "gpu_data.yaml").write_text("")
    with pytest.raises(ChipError, match="no such file") as error:
        load_library(tmp_path / "gpu_dat.yaml")
    assert error.value.hint == "did you mean 'gpu_data.yaml'?"
    with pytest.raises(ChipError, match="no such file") as error:
        load_library(tmp_path / "no" / "gpu_data.yaml")
    assert "there is no folder" in error.value.hint
    with pytest.raises(ChipError, match="cannot be read"):
        load_library(tmp_path)


def test_names_that_ship_are_taken(refused: Load) -> None:
    error = refused(GOOD, links=[{"name": "grs", "bandwidth_gb_s": 1, "latency_ns": 1, "pj_per_bit": 1}])
    assert "links grs ship already" in error.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"peak_bw": -1.0},
        {"mem_gb": float("nan")},
        {"peak_flops": {}},
        {"achievable": 0.0},
        {"achievable_bw": 1.5},
        {"dies": 0},
        {"idle_w": -1.0},
        {"vector_flops": float("inf")},
    ],
)
def test_a_chip_made_in_python_is_checked_too(wrong: dict[str, object]) -> None:
    with pytest.raises(ChipError):
        ChipType(**(GOOD | {"peak_flops": {"fp16": 1e14}} | wrong))  # type: ignore[arg-type]
