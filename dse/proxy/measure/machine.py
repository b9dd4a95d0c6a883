"""The machine that measures: what it is, what it could reach, and what it does reach."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dse.proxy.measure.energy import energy_counter

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
DEFAULT_CACHE_BYTES = 32 << 20
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""Flags of x86 processors on which the speed of matrix products rests."""

FMA_UNITS = 2
"""Vector units for fused multiply-adds a core: two in Zen 2 to 5 and in Intel's server cores (uops.info)."""

MATRIX = 2048
STREAM_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the rows of one measurement were measured on. Peaks are theoretical where the processor tells its units."""

    device: str  # name in the tables
    kind: str  # cpu or cuda
    model: str
    vendor: str
    threads: int  # that operators run on; streaming multiprocessors of a GPU
    clock_mhz: float  # while it computes
    cache_bytes: int  # of the last level
    memory_bytes: int
    peak_tflops: dict[str, float]  # by type of number
    measured_tflops: dict[str, float]
    bandwidth_gb_s: float  # measured
    idle_w: float | None
    flags: tuple[str, ...]
    caches: dict[str, int]
    torch: str
    system: str

    @property
    def framework(self) -> str:
        """Column `framework` of the rows."""
        return f"torch{self.torch.replace('+', '-')}"

    def describe(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self) | {"flags": list(self.flags), "framework": self.framework}

    def device_row(self) -> dict[str, Any]:
        """Return the row of the device table."""
        peaks = self.peak_tflops
        return {
            "device": self.device,
            "vendor": self.vendor,
            "family": _family(self.model, self.flags),
            "chip": self.model,
            "peak_fp32_tflops": peaks["fp32"],
            "peak_fp32_matrix_tflops": peaks["fp32"],
            "peak_fp16_tensor_tflops": peaks.get("bf16"),
            "peak_int8_tops": peaks.get("int8"),
            "peak_bw_gbs": self.bandwidth_gb_s,
            "mem_gb": self.memory_bytes / 1e9,
            "idle_w": self.idle_w,
            "sm": self.threads,
            "l2_mb": self.cache_bytes / 1e6,
            "boost_mhz": self.clock_mhz,
            "src_base": "measured on the machine; peaks from clock and vector units",
            "note": f"{self.threads} thread(s); bandwidth measured (stream); l2_mb is the last-level cache",
        }


def describe_machine(kind: str, name: str = "") -> Machine:
    """Measure what the machine reaches, and describe it; `name` is what tables call it (by its model if empty)."""
    return _gpu(name) if kind == "cuda" else _processor(name)


def last_level_cache_bytes(kind: str) -> int:
    """Bytes of the last-level cache; of a processor that does not tell, 32 MiB."""
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    return max(_caches().values(), default=DEFAULT_CACHE_BYTES)


def _caches() -> dict[str, int]:
    """Bytes of the caches that hold data, by level."""
    found: dict[str, int] = {}
    for folder in sorted(CACHES.glob("index*")):
        if (folder / "type").read_text().strip() != "Instruction":
            size = (folder / "size").read_text().strip()
            unit = {"K": 1 << 10, "M": 1 << 20}[size[-1]]
            found[f"L{(folder / 'level').read_text().strip()}"] = int(size[:-1]) * unit
    return found


def _processor(name: str) -> Machine:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    flags = tuple(flag for flag in FLAGS if flag in facts.get("flags", "").split())
    threads = torch.get_num_threads()
    clock = _clock_hz()
    wide = 512 if "avx512f" in flags else 256
    per_cycle = {"fp32": FMA_UNITS * 2 * wide // 32}
    if "avx512_bf16" in flags:
        per_cycle["bf16"] = 2 * per_cycle["fp32"]  # vdpbf16ps
    if "avx512_vnni" in flags:
        per_cycle["int8"] = 4 * per_cycle["fp32"]  # vpdpbusd
    vendor = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(facts.get("vendor_id", ""), "other")
    model = facts.get("model name", platform.processor() or platform.machine())
    if "cpu family" in facts:
        model += f" (family {facts['cpu family']}, model {facts.get('model', '?')})"
    return Machine(
        device=name or f"{_slug(facts.get('model name', platform.machine()))}-{threads}core",
        kind="cpu",
        model=model,
        vendor=vendor,
        threads=threads,
        clock_mhz=clock / 1e6,
        cache_bytes=last_level_cache_bytes("cpu"),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        peak_tflops={dtype: threads * clock * flops / 1e12 for dtype, flops in per_cycle.items()},
        measured_tflops=_measured_peaks("cpu", list(per_cycle)),
        bandwidth_gb_s=_bandwidth_gb_s("cpu"),
        idle_w=_idle("cpu"),
        flags=flags,
        caches=_caches(),
        torch=str(torch.__version__),
        system=f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
    )


def _gpu(name: str) -> Machine:
    facts = torch.cuda.get_device_properties(0)
    measured = _measured_peaks("cuda", ["fp32", "fp16", "bf16", "int8"])
    return Machine(
        device=name or _slug(facts.name),
        kind="cuda",
        model=facts.name,
        vendor="amd" if torch.version.hip else "nvidia",
        threads=facts.multi_processor_count,
        clock_mhz=float(getattr(facts, "clock_rate", 0)) / 1e3,
        cache_bytes=last_level_cache_bytes("cuda"),
        memory_bytes=facts.total_memory,
        peak_tflops=measured,  # the driver does not tell the units: the datasheet does
        measured_tflops=measured,
        bandwidth_gb_s=_bandwidth_gb_s("cuda"),
        idle_w=_idle("cuda"),
        flags=(f"sm_{facts.major}{facts.minor}",),
        caches={"L2": int(facts.L2_cache_size)},
        torch=str(torch.__version__),
        system=f"{platform.system()} {platform.release()}",
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _family(model: str, flags: tuple[str, ...]) -> str:
    """Zen 5 and Zen 4 are told by AMD's family numbers (26 and 25); others go by their vector units."""
    if "family 26" in model:
        return "Zen5"
    if "family 25" in model:
        return "Zen4" if "avx512f" in flags else "Zen3"
    return flags[-1] if flags else "x86-64"


def _idle(kind: str) -> float | None:
    counter = energy_counter(kind)
    return counter.idle_w() if counter else None


def _clock_hz() -> float:
    """Cycles a second while one core computes: of a chain of six dependent instructions of one cycle each (xorshift).

    The generator is Marsaglia's (Journal of Statistical Software 8, 14, 2003); no compiler sees through it.
    """
    import numba
    import numpy as np

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def chain(steps: int) -> int:
        state = np.uint64(88172645463325252)
        for _ in range(steps):
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
        return int(state)

    steps = 20_000_000
    chain(1)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()  # what other processes take of the core is not its clock
        chain(steps)
        best = min(best, time.process_time() - start)
    return 6 * steps / best


def _best_s(run: Callable[[], Any], repeats: int, kind: str) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _measured_peaks(kind: str, dtypes: list[str]) -> dict[str, float]:
    """TFLOP/s of the best of some large matrix products, by type; types that cannot be multiplied here are left out."""
    size = MATRIX if kind == "cpu" else 4 * MATRIX
    reached = {}
    for dtype in dtypes:
        exact = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}[dtype]
        left = torch.ones(size, size, dtype=exact, device=kind)
        right = torch.ones(size, size, dtype=exact, device=kind)
        product = torch._int_mm if dtype == "int8" else torch.mm
        try:
            with torch.no_grad():
                product(left, right)
                seconds = _best_s(lambda f=product, a=left, b=right: f(a, b), 5, kind)  # type: ignore[misc]
        except RuntimeError:
            continue
        reached[dtype] = 2 * size**3 / seconds / 1e12
    return reached


def _bandwidth_gb_s(kind: str) -> float:
    """GB/s of the best of some sums of two large tensors (as McCalpin's STREAM adds), or over one, what is faster.

    A processor also reads what it is about to write (write-allocate), so that a sum of two moves four tensors.
    """
    count = STREAM_BYTES // 4
    left, right = torch.ones(count, device=kind), torch.ones(count, device=kind)
    out = torch.empty_like(left)
    with torch.no_grad():
        torch.add(left, right, out=out)
        added = _best_s(lambda: torch.add(left, right, out=out), 7, kind)
        read = _best_s(lambda: left.sum(), 7, kind)
    moved = 4 if kind == "cpu" else 3
    return max(moved * STREAM_BYTES / added, STREAM_BYTES / read) / 1e9
