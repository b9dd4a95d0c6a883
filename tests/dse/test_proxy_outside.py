"""What lies outside of the data of the layer proxy is told, with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dse.proxy.features import CHIP_NAMES, NAMES, WORK, Features, features
from dse.proxy.intervals import UNKNOWN, Novelty, novelty, outside, standing
from dse.proxy.model import Outside
from dse.proxy.vocabulary import CASE, Vocabulary
from tests.dse.proxy_rows import chips, operators


def seen_and_new() -> tuple[Features, Vocabulary]:
    """Rows on chips of two makers, and the vocabulary of all of them."""
    devices = chips(0).assign(vendor=["one", "one", "one", "two"])
    rows = operators(300, 0, list(devices.index))
    return features(rows, devices), Vocabulary.of(features(rows, devices))


def test_rows_of_the_data_are_inside_and_new_words_are_told_apart() -> None:
    rows, whole = seen_and_new()
    assert not outside(rows, whole).any()
    makers, kinds, dtypes = (
        texts.astype(str)
        for texts in (
            rows.chip_names[:, CHIP_NAMES.index("maker")],
            rows.names[:, NAMES.index("op_type")],
            rows.names[:, NAMES.index("dtype")],
        )
    )
    kept = ~((kinds == "conv2d") & (makers == "two gpu")) & ~((kinds == "matmul") & (dtypes == "fp32"))
    part = Vocabulary.of(rows[kept])
    codes = outside(rows, part)
    told = pd.Series(part.known[CASE]).str.split(" | ", regex=False)
    pairs = {(case[0], case[1]) for case in told}
    numbers = {(case[1], "half" if case[2] in ("fp16", "bf16") else case[2]) for case in told}
    known_makers = {case[0] for case in told}
    for maker, kind, dtype, code in zip(makers, kinds, dtypes, codes.tolist(), strict=True):
        short = "half" if dtype in ("fp16", "bf16") else dtype
        expected = Outside.CHIP if maker not in known_makers else Outside(0)
        known_kind = kind in {pair[1] for pair in pairs}
        if not known_kind or (maker in known_makers and (maker, kind) not in pairs):
            expected |= Outside.OPERATOR
        if known_kind and (kind, short) not in numbers:
            expected |= Outside.NUMBERS
        assert code & UNKNOWN == expected, (maker, kind, dtype)
    assert ((standing(rows, part)[0] == Novelty.MAKER) == (codes > 0)).all()
    assert ((novelty(rows, part) == Novelty.MAKER) == ((codes & UNKNOWN) > 0)).all()
    assert codes.any() and not codes.all()


def test_a_vocabulary_without_cases_knows_makers_and_operators_alone() -> None:
    rows, whole = seen_and_new()
    known = {name: texts for name, texts in whole.known.items() if name != CASE}
    assert not outside(rows, Vocabulary(known=known)).any()
    without = Vocabulary(known=known | {"maker": ()})
    assert (outside(rows, without) == np.int8(Outside.CHIP)).all()


def test_operators_that_libraries_run_as_another_kind_are_known_as_it() -> None:
    rows, vocabulary = seen_and_new()
    kind = NAMES.index("op_type")
    names = rows.names.copy()
    names[names[:, kind] == "conv2d", kind] = "conv1d"
    line = replace(rows, names=names)
    assert not outside(line, vocabulary).any()
    for found, expected in zip(vocabulary.codes(line), vocabulary.codes(rows), strict=True):
        assert (found == expected).all()


def test_batch_norm_is_an_element_wise_operator() -> None:
    devices = chips(0)
    norms = operators(300, 0, list(devices.index)).query("op_type == 'layernorm'").assign(op_name="batchnorm")
    found = features(norms, devices)
    assert (found.names[:, NAMES.index("op_type")] == "elementwise").all()
    plain = features(norms.assign(op_type="elementwise", operands=1.0), devices)
    assert (found.work == plain.work).all() and (found.shape_class == plain.shape_class).all()


def test_a_name_measured_on_another_makers_chips_alone_is_new() -> None:
    rows, _ = seen_and_new()
    name, maker = NAMES.index("op_name"), CHIP_NAMES.index("maker")
    names = rows.names.copy()
    of_one = rows.chip_names[:, maker] == "one gpu"
    names[~of_one & (names[:, NAMES.index("op_type")] == "softmax"), name] = "two's"
    vocabulary = Vocabulary.of(replace(rows, names=names))
    names[names[:, NAMES.index("op_type")] == "softmax", name] = "two's"
    codes, _ = vocabulary.codes(replace(rows, names=names))
    theirs = names[:, name] == "two's"
    assert (codes[theirs & of_one, name] == 0).all() and (codes[theirs & ~of_one, name] > 0).all()
    assert (codes[~theirs, name] > 0).all()


@pytest.mark.parametrize(
    ("column", "highest"),
    [
        ("peak_fp16_tensor_tflops", True),
        *((name, highest) for name in ("peak_fp32_tflops", "peak_bw_gbs", "tdp_w") for highest in (True, False)),
    ],
)
def test_a_chip_well_beyond_those_of_its_maker_is_told(column: str, highest: bool) -> None:
    devices = chips(0)
    rows = operators(300, 0, list(devices.index))
    vocabulary = Vocabulary.of(features(rows, devices))
    edge = devices[column].max() if highest else devices[column].min()
    for factor, far in ((1.5, False), (40.0, True)):  # peaks of types overlap, by up to 32 times
        new = devices.assign(**{column: edge * (factor if highest else 1 / factor)})
        codes = outside(features(rows, new), vocabulary)
        assert ((codes & Outside.RATES) > 0).any() == far
        assert not (codes & ~np.int8(Outside.RATES)).any()


def test_a_layer_well_beyond_those_of_its_maker_is_told() -> None:
    rows, vocabulary = seen_and_new()
    makers = rows.chip_names[:, CHIP_NAMES.index("maker")].astype(str)
    for name in ("flops", "bytes"):
        column = WORK.index(name)
        for factor, large in ((1.9, False), (2.1, True)):
            work = rows.work.copy()
            for maker in np.unique(makers):
                own = np.flatnonzero(makers == maker)
                work[own[work[own, column].argmax()], column] += np.log(factor)
            codes = outside(replace(rows, work=work), vocabulary)
            assert (codes > 0).sum() == (len(np.unique(makers)) if large else 0)
            assert set(codes.tolist()) <= {0, int(Outside.SIZE)}
