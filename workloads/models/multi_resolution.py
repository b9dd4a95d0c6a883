"""Spectrograms of several resolutions of one signal, encoded apart and fused: the first change of HTDemucs_n.

A short window places an onset, a long one a pitch; a learned mixture need not choose. Written from the specification
of HTDemucs_n, which leaves open what becomes of a stereo signal in an encoder of 2 input channels (magnitude and
phase): here it encodes the mid signal, the mean over the channels. Where the sound comes from stands in the stereo
spectrogram that HTDemucs_n concatenates to the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.htdemucs_spectrum import spectrogram


class MultiResolutionEncoder(nn.Module):
    """Magnitude and phase at each window of `n_ffts` (hop n_fft / 4), encoded by convolutions and fused.

    Per resolution: Conv2d(2, hidden, 3), ReLU, Conv2d(hidden, channels, 3), ReLU, bilinear to the wanted size, times
    its share of a softmax over one learned scalar a resolution. Fusion: concatenation, Conv2d(R x channels, channels,
    1), ReLU, Conv2d(channels, channels, 3). 129,796 parameters by default.

    Raises WorkloadError where `n_ffts` is empty or holds what is no multiple of 4.
    """

    def __init__(
        self, n_ffts: Sequence[int] = (512, 1024, 2048, 4096), *, hidden: int = 32, channels: int = 64
    ) -> None:
        super().__init__()
        if not n_ffts or any(n_fft < 4 or n_fft % 4 for n_fft in n_ffts):
            raise WorkloadError(f"n_ffts {list(n_ffts)}", "at least one, each a multiple of 4: the hop is n_fft / 4")
        self.n_ffts = tuple(n_ffts)
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, channels, 3, padding=1), nn.ReLU()
            )
            for _ in self.n_ffts
        )
        self.weights = nn.Parameter(torch.zeros(len(self.n_ffts)))
        self.fuse = nn.Sequential(
            nn.Conv2d(len(self.n_ffts) * channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, wave: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, T] to [B, channels, *size], `size` in bins and frames."""
        mid, shares = wave.mean(1, keepdim=True), self.weights.softmax(0)
        # each in a function of its own, so that eager execution frees it once they are concatenated
        encoded = torch.cat([self._encoded(mid, index, size) * share for index, share in enumerate(shares)], dim=1)
        out: Tensor = self.fuse(encoded)
        return out

    def _encoded(self, mid: Tensor, index: int, size: tuple[int, int]) -> Tensor:
        """[B, 1, T] to [B, channels, *size] of one resolution."""
        spectrum = spectrogram(mid, torch.hann_window(self.n_ffts[index], dtype=mid.dtype, device=mid.device))
        features = self.encoders[index](torch.cat([spectrum.abs(), spectrum.angle()], dim=1))
        return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
