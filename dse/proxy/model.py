"""LayerCostModel: what every cost model of a layer on a chip is, and how one is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum, IntFlag
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Precision
from chiplib.features import chip_features
from dse.errors import DseError
from dse.proxy.software import UNSAID, Software

if TYPE_CHECKING:
    from workloads.graph import WorkloadGraph
    from workloads.segments import SegmentGraph

DEFAULT = "learned"
"""Cost model where nothing is said."""


class Bound(IntEnum):
    """What limits a layer on a chip; the code of `LayerCosts.bound`."""

    COMPUTE = 0  # matrix units
    VECTOR = 1  # vector units
    MEMORY = 2  # bandwidth of the memory
    LAUNCH = 3  # starting it: more than half of the time would stay if there were nothing to do

    @property
    def label(self) -> str:
        """Its name in files and reports."""
        return self.name.lower()


class Outside(IntFlag):
    """Why a layer on a chip is far from what a fitted model was fitted to; the code of `LayerCosts.outside`."""

    CHIP = 1  # nothing of this maker and kind of chip was measured
    OPERATOR = 2  # nothing of this kind of operator was measured on chips of this maker
    NUMBERS = 4  # this kind of operator was never measured in numbers of this type
    SIZE = 8  # it is more than twice as large as any layer, of whatever operator, measured on chips of this maker
    RATES = 16  # its peak (of any number type), bandwidth or power is over a factor of two beyond this maker's data

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what is set, in files and reports."""
        return tuple(flag.name.lower() for flag in Outside if flag in self and flag.name)


REASONS: Dict[str, str] = {
    "chip": "no chip of its maker and kind was measured",
    "operator": "this kind of operator was not measured on chips of its maker",
    "numbers": "this kind of operator was not measured in numbers of this type",
    "size": "larger than what was measured on chips of its maker",
    "rates": "peaks, bandwidth or power of the chip are far from those of its maker's measured chips",
}
"""Label of Outside -> what it means, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerQuestion:
    """What a cost model is asked: N layers on C chips, at one precision."""

    layers: NDArray[np.void]  # [N] LAYER_FEATURES, bytes at the precision
    chips: NDArray[np.void]  # [C] CHIP_FEATURES, at the precision
    precision: Precision
    graph: WorkloadGraph  # of the layers, as traced
    types: Sequence[ChipType]  # [C]
    software: Software = UNSAID  # that a model which knows software speaks for
    calibrations: Path | None = None  # folder of stored calibrations of chips, see dse.proxy.calibration

    @classmethod
    def of(
        cls,
        segments: SegmentGraph,
        types: Sequence[ChipType],
        precision: Precision,
        *,
        software: Software = UNSAID,
        calibrations: Path | None = None,
    ) -> LayerQuestion:
        """Ask for the layers of `segments`, which are at that precision, on chips."""
        return cls(
            layers=segments.features,
            chips=chip_features(types, precision),
            precision=precision,
            graph=segments.graph,
            types=types,
            software=software,
            calibrations=calibrations,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the numbers of a model that was fitted to measurements rest on, and what they speak for."""

    data: Dict[str, int]  # source of measured rows -> rows
    software: tuple[Software, ...]  # [C]
    coverage: float  # share of measurements that should lie within low_ms and high_ms
    fingerprint: str  # of what was fitted: other weights, other numbers
    calibrated: tuple[str, ...] = ()  # names of chips with measurements of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """What N layers cost on C chips, each on its own. Infinite where the chip lacks the precision."""

    latency_ms: NDArray[np.float64]  # [N, C]
    energy_mj: NDArray[np.float64]  # [N, C] dynamic; static power is charged by the time that the system is on
    memory_bytes: NDArray[np.float64]  # [N, C] weights, inputs and outputs
    bound: NDArray[np.int8]  # [N, C] codes of Bound
    low_ms: NDArray[np.float64] | None = None  # [N, C] interval of latency, of models that give one
    high_ms: NDArray[np.float64] | None = None  # [N, C]
    outside: NDArray[np.int8] | None = None  # [N, C] codes of Outside, 0: inside of the data
    evidence: Evidence | None = None  # of models that were fitted


@runtime_checkable
class LayerCostModel(Protocol):
    """Predicts cost from features of layers and of chips, all pairs in one vectorised call.

    A model that reads a key of the datasheet that not every chip gives names it in an attribute `requires`. One whose
    numbers depend on the software that runs layers has a method `checked_software(software)`, which returns it as the
    model will take it, or raises DseError.

    A model is a file of this folder, named as the model, that holds an instance as `MODEL`; from outside it comes in
    through the entry points `chipfront.cost_models`, which load such an instance.
    """

    @property
    def name(self) -> str:
        """How studies and commands call it."""
        ...

    @property
    def source(self) -> str:
        """What the numbers rest on, for the report."""
        ...

    def predict(self, question: LayerQuestion) -> LayerCosts:
        """Return the costs [N, C] of the question's layers on its chips."""
        ...


def check_datasheets(model: LayerCostModel, chips: Sequence[ChipType]) -> None:
    """Raise DseError, naming chip and key, where a datasheet lacks what the model `requires`."""
    key = getattr(model, "requires", "")
    lacking = [chip.name for chip in chips if key and getattr(chip, key, None) is None]
    if lacking:
        raise DseError(
            f"the datasheet of chip {lacking[0]!r} gives no {key}, which cost model {model.name!r} reads",
            f"give {key} in its library file, use another chip, or another model: {', '.join(cost_models())}",
        )


def check_software(model: LayerCostModel, software: Software) -> Software:
    """Return the software as the model takes it: its default where none is named, none where it knows of none.

    Raises DseError for software that the model does not know, or where it is told of some and knows of none.
    """
    checked = getattr(model, "checked_software", None)
    if checked is not None:
        resolved: Software = checked(software)
        return resolved
    if software != UNSAID:
        key, value = next((key, value) for key, value in software.named.items() if value)
        raise DseError(
            f"{key} is {value!r}, but the numbers of cost model {model.name!r} hold for no software in particular",
            f"leave {key} out, or take model {DEFAULT}",
        )
    return software


@cache
def cost_models() -> Dict[str, LayerCostModel]:
    """Every cost model by name: those of this folder, then those of the entry points `chipfront.cost_models`."""
    found = [_model_of_file(file) for file in _files()]
    for point in entry_points(group="chipfront.cost_models"):
        try:
            model = point.load()
        except Exception as error:
            warn(f"cost model plug-in {point.name} of {point.value} does not load: {error}", stacklevel=2)
            continue
        if isinstance(model, LayerCostModel):
            found.append(model)
        else:
            warn(f"cost model plug-in {point.name} of {point.value} has no name, source or predict", stacklevel=2)
    return {model.name: model for model in sorted(found, key=lambda model: model.name)}


@cache
def cost_model(name: str) -> LayerCostModel:
    """Return the cost model of that name.

    Raises DseError where there is none.
    """
    if name in _files():  # without importing all the others
        return _model_of_file(name)
    models = cost_models()
    if name not in models:
        close = get_close_matches(name, models, n=1)
        known = f"one of {', '.join(models)}"
        raise DseError(f"no cost model is called {name!r}", f"did you mean {close[0]!r}? {known}" if close else known)
    return models[name]


def _files() -> list[str]:
    """Names of the files here that define MODEL, told without importing those that do not (some load torch)."""
    return [path.stem for path in Path(__file__).parent.glob("*.py") if "\nMODEL = " in path.read_text("utf-8")]


def _model_of_file(name: str) -> LayerCostModel:
    model: LayerCostModel = importlib.import_module(f"dse.proxy.{name}").MODEL
    return model
