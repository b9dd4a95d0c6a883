"""Tables of operators whose latency follows a law that is known: three devices, two frameworks, two kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dse.proxy.dataset import read_rows
from dse.proxy.devices import read_devices

PEAK_TFLOPS = {"slow": 10.0, "middle": 40.0, "fast": 200.0}
BANDWIDTH_GBS = {"slow": 400.0, "middle": 900.0, "fast": 3000.0}
COMPUTE_EFFICIENCY = {"matmul": 0.8, "softmax": 0.5}
BANDWIDTH_EFFICIENCY = {"matmul": 0.6, "softmax": 0.9}
LAUNCH_MS = {"matmul": 0.004, "softmax": 0.002}


def device_table() -> pd.DataFrame:
    """Three devices of two families; the two of family `old` share a die."""
    frame = pd.DataFrame({"device": list(PEAK_TFLOPS), "peak_fp16_tensor_tflops": PEAK_TFLOPS.values()})
    frame = frame.assign(vendor="v", family=["old", "old", "new"], chip=["A", "A", "B"], tdp_w=[100.0, 250.0, 700.0])
    frame = frame.assign(peak_bw_gbs=list(BANDWIDTH_GBS.values()), l2_mb=4.0)
    return read_devices(frame.assign(peak_fp32_tflops=frame["peak_fp16_tensor_tflops"] / 4))


def row_table(shapes: int = 150, *, seed: int = 0, noise: float = 0.0) -> pd.DataFrame:
    """Shapes of each kind on every device: times by the law, exact but for `noise`; power 30 % of the TDP."""
    rng = np.random.default_rng(seed)
    tables = []
    devices = device_table()
    for op_type in COMPUTE_EFFICIENCY:
        sizes = (2 ** rng.uniform(4, 12, (shapes, 3))).round()
        matmul = {"m": sizes[:, 0], "n": sizes[:, 1], "k": sizes[:, 2]}
        frame = pd.DataFrame(matmul if op_type == "matmul" else {"rows": sizes[:, 0], "cols": sizes[:, 1]})
        frame = frame.drop_duplicates().assign(op_type=op_type, op_name={"matmul": "gemm"}.get(op_type, op_type))
        tables += [
            frame.assign(device=name, framework="torch" if op_type == "matmul" else "lib") for name in PEAK_TFLOPS
        ]
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.assign(source="made", timer="exact", dtype="fp16", latency_ms=1.0, power_w=1.0)
    rows = read_rows(rows.assign(row_id=range(len(rows))))
    rows["latency_ms"] = (law(rows) * np.exp(noise * rng.standard_normal(len(rows)))).astype(np.float32)
    rows["power_w"] = (0.3 * rows["device"].astype(object).map(devices["tdp_w"])).astype(np.float32)
    return rows.drop(columns="row_id")


def law(rows: pd.DataFrame) -> np.ndarray:
    """Latency [N] in ms: max(compute, memory) at the kind's efficiencies, plus its launch."""
    kind, device = rows["op_type"].astype(object), rows["device"].astype(object)
    peak = device.map(PEAK_TFLOPS).where(kind == "matmul", device.map(PEAK_TFLOPS) / 4) * 1e9  # per ms
    compute = rows["flops"] / peak / kind.map(COMPUTE_EFFICIENCY)
    memory = rows["bytes"] / (device.map(BANDWIDTH_GBS) * 1e6) / kind.map(BANDWIDTH_EFFICIENCY)
    return (np.maximum(compute, memory) + kind.map(LAUNCH_MS)).to_numpy(dtype=np.float64)
