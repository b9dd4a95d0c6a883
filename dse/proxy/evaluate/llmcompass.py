"""LLMCompass's own operators, measured on an A100, beside what its analytical model made of them."""

from __future__ import annotations

import pandas as pd

from dse.proxy.evaluate.scores import ALL

SPLIT = "llmcompass"

PUBLISHED: dict[str, float] = {"matmul": 6.5, "softmax": 9.2, "layernorm": 9.1, "elementwise": 5.5}
"""op_type -> mean absolute error in % of LLMCompass (arXiv:2312.03134) on the A100 operators of its artefact, with the
launch overheads that it fitted to them. The elementwise operator is GELU. A roofline of its own has 23.2 on matmul."""


def beside_llmcompass(scores: pd.DataFrame) -> pd.DataFrame:
    """Return predictor, op_type, rows, mean_ape and llmcompass (its mean_ape), from scores that hold its split."""
    ours = scores[(scores["split"] == SPLIT) & (scores["device"] == ALL) & scores["op_type"].isin(list(PUBLISHED))]
    table = ours[["predictor", "op_type", "rows", "mean_ape"]].reset_index(drop=True)
    return table.assign(llmcompass=table["op_type"].map(PUBLISHED))
