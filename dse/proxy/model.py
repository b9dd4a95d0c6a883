"""LayerCostModel: what every cost model of a layer on a chip is, and how one is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from chiplib.chip import ChipType, Precision
from dse.errors import DseError


class Bound(IntEnum):
    """What limits a layer on a chip; the code of `LayerCosts.bound`."""

    COMPUTE = 0  # matrix units
    VECTOR = 1  # vector units
    MEMORY = 2  # bandwidth of the memory

    @property
    def label(self) -> str:
        """Its name in files and reports."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """What N layers cost on C chips, each on its own. Infinite where the chip lacks the precision."""

    latency_ms: NDArray[np.float64]  # [N, C]
    energy_mj: NDArray[np.float64]  # [N, C] dynamic; static power is charged by the time that the system is on
    memory_bytes: NDArray[np.float64]  # [N, C] weights, inputs and outputs
    bound: NDArray[np.int8]  # [N, C] codes of Bound


@runtime_checkable
class LayerCostModel(Protocol):
    """Predicts cost from features of layers and of chips, all pairs in one vectorised call.

    A model that reads a key of the datasheet that not every chip gives names it in an attribute `requires`.

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

    def predict(self, layers: NDArray[np.void], chips: NDArray[np.void], *, precision: Precision) -> LayerCosts:
        """Return the costs of `layers` [N] (LAYER_FEATURES, bytes at `precision`) on `chips` [C] (CHIP_FEATURES)."""
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
