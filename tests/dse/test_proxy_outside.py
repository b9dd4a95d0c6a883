"""What lies outside of the data of the layer proxy is told, with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from dse.proxy.features import CHIP_NAMES, NAMES, Features, features
from dse.proxy.intervals import Novelty, novelty, outside
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
        assert code == expected, (maker, kind, dtype)
    assert ((novelty(rows, part) == Novelty.MAKER) == (codes > 0)).all()
    assert codes.any() and not codes.all()


def test_a_vocabulary_without_cases_knows_makers_and_operators_alone() -> None:
    rows, whole = seen_and_new()
    known = {name: texts for name, texts in whole.known.items() if name != CASE}
    assert not outside(rows, Vocabulary(known=known)).any()
    without = Vocabulary(known=known | {"maker": ()})
    assert (outside(rows, without) == np.int8(Outside.CHIP)).all()


def test_operators_that_libraries_run_as_another_kind_are_known_as_it() -> None:
    rows, vocabulary = seen_and_new()
    kind, name = NAMES.index("op_type"), NAMES.index("op_name")
    names = rows.names.copy()
    names[names[:, kind] == "conv2d", kind] = "conv1d"
    line = replace(rows, names=names)
    assert not outside(line, vocabulary).any()
    for found, expected in zip(vocabulary.codes(line), vocabulary.codes(rows), strict=True):
        assert (found == expected).all()
    scaled = names.copy()
    norms = scaled[:, kind] == "layernorm"
    scaled[norms, name] = "batchnorm"
    codes, _ = vocabulary.codes(replace(rows, names=scaled))
    assert (codes[norms, kind] == vocabulary.places("op_type")["elementwise"]).all()


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
