"""Software: the framework that runs layers and the timer that tells how long; both differ by 20 to 50 % on a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from chiplib.chip import ChipType
from chiplib.validation import did_you_mean
from dse.errors import DseError

EAGER = "torch"
"""Framework where nothing is said: PyTorch in eager mode, of the version that was measured on the chip's kind. It is
how models run that nobody has compiled, fused or served yet, which is what a study knows of its workload; and each
kernel of it was timed on its own, as layers are predicted here."""

TIMERS: Mapping[str, str] = {
    "deepbench": "event_mean",
    "hf-torch-v0": "kernel_time",
    "llmcompass-ae": "unknown",
    "tf1": "wallclock_session_run",
    "torch2.1.0": "cuda_event_min5of25",
    "torch2.4.1-rocm": "cuda_event_min5of25",
    "torch2.13.0-cpu": "wallclock_median_cold",
    "trtllm-1.0.0": "cudagraph_mean",
    "trtllm-1.3.0rc15": "cudagraph_mean",
    "v0-flashattn": "kernel_time",
    "vllm-0.14.0": "cudagraph_mean",
    "vllm-0.19.0": "kernel_time",
    "vllm-0.22.0": "cudagraph_mean",
    "vllm-0.24.0": "cudagraph_mean",
    "vllm-vidur": "cuda_event_median",
}
"""Frameworks of the data, and the timer that each was measured with."""

EAGER_VERSIONS = {"cpu": "torch2.13.0-cpu", "amd": "torch2.4.1-rocm", "": "torch2.1.0"}
"""What EAGER stands for: on a kind of chip, else on chips of a vendor, else on all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A framework and a timer, as the data name them. Without a framework EAGER, without a timer the framework's."""

    framework: str = ""
    timer: str = ""

    @property
    def named(self) -> dict[str, str]:
        """What is named, by the keys of studies and options."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.framework}, timed by {self.timer}" if self.timer else self.framework

    def on(self, chip: ChipType) -> Software:
        """Return what a prediction for `chip` speaks for: one framework and one timer of the data."""
        framework = self.framework or EAGER
        if framework == EAGER:
            kinds = (chip.kind.lower(), chip.vendor.lower(), "")
            framework = next(EAGER_VERSIONS[kind] for kind in kinds if kind in EAGER_VERSIONS)
        return Software(framework=framework, timer=self.timer or TIMERS[framework])


UNSAID = Software()
"""Neither framework nor timer is named."""


def known_software(software: Software) -> Software:
    """Return `software` with EAGER where no framework is named.

    Raises DseError for a framework or timer that the data do not know.
    """
    timers = sorted(set(TIMERS.values()))
    known: dict[str, Sequence[str]] = {"framework": [EAGER, *sorted(TIMERS)], "timer": timers}
    for key, value in software.named.items():
        if value and value not in known[key]:
            raise DseError(f"no {key} is called {value!r}", did_you_mean(value, known[key]))
    return Software(framework=software.framework or EAGER, timer=software.timer)
