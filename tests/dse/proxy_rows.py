"""Rows and devices for tests of the layer proxy: random operators of every kind, and made-up chips."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dse.proxy.columns import SHAPES
from dse.proxy.work import work_of_rows

SHAPES_OF = {
    "matmul": {"m": (1, 8192), "n": (1, 8192), "k": (1, 8192), "batch": (1, 64)},
    "conv2d": {"batch": (1, 32), "cin": (1, 512), "cout": (1, 512), "hout": (1, 128), "wout": (1, 128)},
    "attn_encoder": {
        "batch": (1, 32),
        "heads": (1, 32),
        "head_dim": (16, 128),
        "seq_q": (1, 4096),
        "seq_kv": (1, 4096),
    },
    "attn_decode": {"batch": (1, 64), "heads": (1, 32), "head_dim": (16, 128), "seq_kv": (1, 8192)},
    "layernorm": {"rows": (1, 16384), "cols": (1, 8192)},
    "softmax": {"rows": (1, 16384), "cols": (1, 8192)},
    "elementwise": {"rows": (1, 16384), "cols": (1, 8192)},
}
NAME_OF = {"matmul": "bmm", "layernorm": "ln", "softmax": "softmax", "elementwise": "add", "conv2d": "conv"}


def operators(count: int, seed: int, devices: list[str]) -> pd.DataFrame:
    """Random rows of every kind in SHAPES_OF, their work computed; sizes are log-uniform."""
    draw = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        kind = str(draw.choice(list(SHAPES_OF)))
        row = {
            name: float(np.floor(np.exp(draw.uniform(np.log(low), np.log(high + 1)))))
            for name, (low, high) in SHAPES_OF[kind].items()
        }
        if kind == "conv2d":
            row |= {"kh": 3.0, "kw": 3.0, "stride": 1.0, "pad": 1.0, "groups": 1.0}
        if kind.startswith("attn"):
            row |= {"kv_heads": row["heads"]} | ({"seq_q": 1.0, "window": 0.0} if kind == "attn_decode" else {})
        row |= {"op_type": kind, "op_name": NAME_OF.get(kind, "attn"), "device": str(draw.choice(devices))}
        records.append(row)
    frame = pd.DataFrame(records)
    frame["source"], frame["framework"], frame["timer"] = "made_up", "lab-1.0", "events"
    frame["dtype"] = draw.choice(["fp32", "fp16"], len(frame))
    return completed(_all_shapes(frame))


def completed(frame: pd.DataFrame) -> pd.DataFrame:
    """Set what follows from the shapes: output and input sizes of a convolution, work."""
    frame = frame.copy()
    for side in "hw":
        frame[f"{side}in"] = frame[f"{side}out"]
    frame["compute_dtype"] = np.where(
        frame["op_type"].isin(["layernorm", "softmax", "elementwise"]), "fp32", frame["dtype"]
    )
    frame[["flops", "bytes", "weight_bytes"]] = work_of_rows(frame)
    return frame


def _all_shapes(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reindex(columns=[*dict.fromkeys([*frame.columns, *SHAPES])])


def chips(seed: int, count: int = 4) -> pd.DataFrame:
    """A device table of made-up chips."""
    draw = np.random.default_rng(seed)
    names = [f"chip{i}" for i in range(count)]
    fp32 = np.exp(draw.uniform(np.log(2), np.log(100), count))
    return pd.DataFrame(
        {
            "vendor": "maker",
            "kind": None,
            "family": [f"family{i // 2}" for i in range(count)],
            "chip": names,
            "peak_fp32_tflops": fp32,
            "peak_fp32_matrix_tflops": np.nan,
            "peak_fp16_vector_tflops": np.nan,
            "peak_fp16_tensor_tflops": fp32 * draw.uniform(2, 16, count),
            "peak_fp8_tflops": np.nan,
            "peak_int8_tops": np.nan,
            "peak_fp4_tflops": np.nan,
            "peak_bw_gbs": np.exp(draw.uniform(np.log(100), np.log(5000), count)),
            "tdp_w": draw.uniform(70, 1000, count),
            "idle_w": np.nan,
            "l2_mb": draw.uniform(2, 100, count),
        },
        index=pd.Index(names, name="device"),
    )
