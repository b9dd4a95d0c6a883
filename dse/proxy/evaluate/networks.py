"""Multilayer perceptrons as baselines: one of latency from raw features, one of the utilisation of a roofline."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from dse.proxy.evaluate.inputs import TextInputs, numeric_inputs
from dse.proxy.evaluate.predictor import Array, Prediction
from dse.proxy.evaluate.rooflines import roofline_terms

WIDTH, STEPS, BATCH, PEAK_RATE = 128, 2500, 2048, 4e-3
FAR = 5.0  # standard deviations of the training rows at which inputs are cut off
BLOCK = 65_536  # rows predicted at a time


class PlainMlp:
    """log(latency) from raw features, as most published layer proxies have it."""

    name = "mlp"

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedMlp:
        """Fit the mean absolute log error."""
        return _fit(rows, devices, utilisation=False, seed=seed)


class UtilisationMlp:
    """log(latency / roofline), from the same features and the roofline's terms."""

    name = "utilisation-mlp"

    def fit(self, rows: pd.DataFrame, devices: pd.DataFrame, *, seed: int) -> FittedMlp:
        """Fit the mean absolute log error."""
        return _fit(rows, devices, utilisation=True, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMlp:
    """A fitted network, and how its inputs are scaled."""

    network: nn.Sequential
    texts: TextInputs
    mean: NDArray[np.float32]  # [F]
    scale: NDArray[np.float32]  # [F]
    utilisation: bool

    def predict(self, rows: pd.DataFrame, devices: pd.DataFrame) -> Prediction:
        """Predict latency [N]; no interval, no power."""
        inputs = self.inputs(rows, devices)
        with torch.inference_mode():
            blocks = [self.network(block).squeeze(1) for block in torch.split(inputs, BLOCK)]
        output = torch.cat(blocks).numpy().astype(np.float64)
        return Prediction.of(np.exp(output + offset(rows, devices, utilisation=self.utilisation)))

    def inputs(self, rows: pd.DataFrame, devices: pd.DataFrame) -> torch.Tensor:
        """Return the network's inputs [N, F + T]."""
        numbers = numeric_inputs(rows, devices, roofline=self.utilisation)
        scaled = np.clip((numbers - self.mean) / self.scale, -FAR, FAR)
        return torch.from_numpy(np.concatenate([scaled, self.texts.one_hot(rows)], axis=1))


def offset(rows: pd.DataFrame, devices: pd.DataFrame, *, utilisation: bool) -> Array:
    """Return what a model's output [N] is relative to: the log of the roofline, or 0."""
    if not utilisation:
        return np.zeros(len(rows))
    return np.log(np.maximum(*roofline_terms(rows, devices)))


def _fit(rows: pd.DataFrame, devices: pd.DataFrame, *, utilisation: bool, seed: int) -> FittedMlp:
    latency = np.log(rows["latency_ms"].to_numpy(dtype=np.float64))
    target = torch.from_numpy((latency - offset(rows, devices, utilisation=utilisation)).astype(np.float32))
    numbers = numeric_inputs(rows, devices, roofline=utilisation)
    mean, scale = numbers.mean(axis=0), numbers.std(axis=0)
    texts = TextInputs.of(rows)
    inputs = numbers.shape[1] + sum(map(len, texts.known.values()))
    generator = torch.Generator().manual_seed(seed)
    fitted = FittedMlp(
        network=_network(inputs, float(target.median()), generator),
        texts=texts,
        mean=mean,
        scale=np.where(scale > 1e-6, scale, np.float32(1)),
        utilisation=utilisation,
    )
    _train(fitted.network, fitted.inputs(rows, devices), target, generator)
    return fitted


def _network(inputs: int, first: float, generator: torch.Generator) -> nn.Sequential:
    """Return a network of three hidden layers that begins near `first`, with weights drawn from `generator` alone."""
    sizes = [inputs, WIDTH, WIDTH, WIDTH, 1]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.SiLU()]
    nn.init.constant_(linear.bias, first)
    return nn.Sequential(*layers[:-1])


def _train(network: nn.Sequential, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> None:
    """Fit the mean absolute error with Adam and a rate that rises, then falls (arXiv:1708.07120)."""
    optimiser = torch.optim.Adam(network.parameters(), lr=PEAK_RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        batch = torch.randint(len(target), (min(BATCH, len(target)),), generator=generator)
        loss = (network(inputs[batch]).squeeze(1) - target[batch]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rates.step()
