"""Learned fusion of a spectrogram branch into a waveform branch: the fourth change of HTDemucs_n.

Written from its specification. What is left open is settled so: frequency features lose their bins by the mean over
them, and the gated stack is WaveNet's unit (van den Oord et al. 2016, arXiv 1609.03499, equation 2), tanh times
sigmoid, followed by a 1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrequencyTimeFusion(nn.Module):
    """Frequency features projected to the time branch, mixed with it by two learned weights a sample, and gated.

    Projection: Conv1d 1, BatchNorm, ReLU, Conv1d 3, BatchNorm, ReLU, linear interpolation to the time branch's length.
    Weights: softmax of two, by Conv1d layers of both branches. Their weighted sum goes through the gated stack and is
    added to the time branch.
    """

    def __init__(self, frequency_channels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv1d(frequency_channels, channels, 1, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
        )
        self.weights = nn.Sequential(
            nn.Conv1d(2 * channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, 2, 1), nn.Softmax(dim=1)
        )
        self.gated = nn.Conv1d(channels, 2 * channels, 3, padding=1)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, frequency: Tensor, time: Tensor) -> Tensor:
        """[B, frequency_channels, bins, frames] and [B, channels, N] to [B, channels, N]."""
        projected = self.project(frequency.mean(2))
        projected = F.interpolate(projected, size=time.shape[-1], mode="linear", align_corners=False)
        weights: Tensor = self.weights(torch.cat([projected, time], dim=1))
        signal, gate = self.gated(weights[:, :1] * projected + weights[:, 1:] * time).chunk(2, dim=1)
        out: Tensor = self.out(signal.tanh() * gate.sigmoid())
        return time + out
