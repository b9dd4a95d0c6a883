"""Numbers and names as a reader wants them: sensible digits, thousands separators, decimal prefixes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reports.records import Params

MISSING = "–"

METRIC_LABELS = {
    "latency_ms": ("Latency", "ms"),
    "throughput_per_s": ("Throughput", "1/s"),
    "energy_mj": ("Energy", "mJ"),
    "peak_memory_mb": ("Peak memory", "MB"),
    "area_mm2": ("Silicon area", "mm²"),
    "cost_usd": ("Cost", "USD"),
    "power_w": ("Mean power", "W"),
    "utilisation": ("Utilisation", "%"),
    "contention_ms": ("Contention", "ms"),
}
"""Name of a metric -> what it is called, and its unit. Utilisation is stored as a share and shown in percent."""

KIND_LABELS = {
    "conv": "convolution",
    "matmul": "matrix product",
    "elementwise": "element-wise",
    "fft": "FFT",
    "copy": "data movement",
    "norm": "normalisation",
    "pool": "pooling",
}


def metric_label(name: str, *, unit: bool = True) -> str:
    """Return "Latency [ms]" for "latency_ms"; a metric that is not known keeps its name."""
    label, symbol = METRIC_LABELS.get(name, (name.replace("_", " "), ""))
    return f"{label} [{symbol}]" if unit and symbol else label


def metric(name: str, value: float | None, *, unit: bool = True) -> str:
    """Return the metric's value with its unit, such as "12.3 ms" or "1,234 USD"."""
    if value is None or not math.isfinite(value):
        return MISSING
    symbol = METRIC_LABELS.get(name, ("", ""))[1]
    text = number(100 * value if symbol == "%" else value)
    return f"{text} {symbol}" if unit and symbol else text


def metric_range(name: str, ends: Sequence[float] | None) -> str:
    """Return an interval of the metric without its unit, such as "1.20 to 40.1"."""
    if not ends:
        return MISSING
    low, high = (metric(name, end, unit=False) for end in ends)
    return f"{low} to {high}"


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` to `digits` significant digits, whole numbers and large ones with thousands separators."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9999 has the decimals of 1.00
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:.{max(decimals, 0)}f}"


def duration(ms: float | None) -> str:
    """Return a time as "1.87 ms", "23.5 µs" or "2.16 ns"."""
    if ms is None or not math.isfinite(ms):
        return MISSING
    for factor, unit in ((1e3, "s"), (1.0, "ms"), (1e-3, "µs")):
        if abs(ms) >= factor * 0.9995:
            return f"{number(ms / factor)} {unit}"
    return f"{number(ms * 1e6)} ns"


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share as "12 %"."""
    if share is None or not math.isfinite(share):
        return MISSING
    if 0 < abs(share) < 0.001:
        return "< 0.1 %" if share > 0 else "> −0.1 %"
    return f"{number(100 * share, digits if abs(share) < 0.1 else 2)} %"


def prefixed(value: float | None, unit: str) -> str:
    """Return `value` with a decimal prefix, such as "171 GMACs" or "26.9 MB"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{number(value)} {unit}"


def count(many: int | float | None, singular: str, plural: str = "") -> str:
    """Return "1 chip" or "2 chips"."""
    return f"{number(many)} {singular if many == 1 else plural or singular + 's'}"


def chips_text(names: Sequence[str]) -> str:
    """Return a multiset of chips as "2 × big_core + small_core"."""
    return " + ".join(f"{many} × {name}" if many > 1 else name for name, many in Counter(names).items()) or MISSING


def design_text(params: Params) -> str:
    """Return a design in one line: chips, package, precision and batch."""
    batch = f"batch {params.batch}" if params.batch > 1 else ""
    return " · ".join(part for part in (chips_text(params.chips), params.package, params.precision, batch) if part)


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def kind_label(kind: str) -> str:
    """Return what an operator kind is called in a legend."""
    return KIND_LABELS.get(kind, kind.replace("_", " "))


def clip(text: str, length: int) -> str:
    """Return `text` in at most `length` characters, cut at its end."""
    return text if len(text) <= length else text[: max(length - 1, 0)].rstrip(" ,") + "…"


def shorten(text: str, length: int) -> str:
    """Return `text` in at most `length` characters, cut in the middle, because ends tell module paths apart."""
    if len(text) <= length:
        return text
    if length < 4:
        return text[: max(length - 1, 0)] + "…"
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"
