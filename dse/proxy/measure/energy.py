"""Energy counters of the machine, where it has one: RAPL of a processor, NVML of a GPU."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Reading:
    """A counter's state."""

    joule: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyCounter:
    """A counter of joules that only grows, up to `wrap_j`, after which it starts at zero again."""

    name: str
    joule: Callable[[], float]
    wrap_j: float = float("inf")

    def read(self) -> Reading:
        """Return its state now."""
        return Reading(self.joule(), time.perf_counter())

    def power_since(self, before: Reading, least_s: float) -> float | None:
        """Return the mean power in W since an earlier reading; None where that is less than `least_s` ago."""
        now = self.read()
        if now.at_s - before.at_s < least_s:
            return None
        spent = now.joule - before.joule
        return (spent + self.wrap_j if spent < 0 else spent) / (now.at_s - before.at_s)

    def idle_w(self, seconds: float = 1.0) -> float | None:
        """Return the mean power while nothing of ours runs."""
        before = self.read()
        time.sleep(seconds)
        return self.power_since(before, seconds / 2)


def energy_counter(device: str, powercap: Path = POWERCAP) -> EnergyCounter | None:
    """Return the counter of that kind of device, or None where this machine does not tell."""
    return _nvml() if device == "cuda" else _rapl(powercap)


def _rapl(powercap: Path) -> EnergyCounter | None:
    """The first processor package: Linux tells microjoules (Documentation/power/powercap/powercap.rst)."""
    for zone in sorted(powercap.glob("*-rapl:?")):
        file = zone / "energy_uj"
        try:
            file.read_text()
            wrap = float((zone / "max_energy_range_uj").read_text()) / 1e6
        except OSError:  # readable for root alone since CVE-2020-8694
            continue
        return EnergyCounter(name="RAPL", joule=lambda file=file: float(file.read_text()) / 1e6, wrap_j=wrap)  # type: ignore[misc]
    return None


def _nvml() -> EnergyCounter | None:
    """GPU 0, through the optional package nvidia-ml-py: millijoules since the driver was loaded (Volta and later)."""
    try:
        nvml: ModuleType = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return None
    return EnergyCounter(name="NVML", joule=lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3)
