"""The short-time Fourier transform and its inverse as modules, for any length of the signal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.complex_layers import Pair

ENVELOPE_FLOOR = 0.1
"""Least sum of squared windows to divide by; only the first and last samples of frames that are not centred see it:
with a window of 4 or more hops, the sum at the ends of centred frames is above 1/4."""


class _Frames(nn.Module):
    """How a signal is cut: a Hann window of `window` samples every `hop`, in the middle of `n_fft` points.

    `centred` frames stand on samples 0, hop, 2 hop, ... of a signal reflected at both ends: 1 + T // hop frames.
    Else the first frame starts with the signal: 1 + ceil((T - window) / hop) frames, zeros behind the end.
    """

    def __init__(self, n_fft: int, window: int, hop: int, *, centred: bool) -> None:
        super().__init__()
        if window % hop or window < 4 * hop or not window <= n_fft or (n_fft - window) % 2:
            raise WorkloadError(
                f"a window of {window} samples every {hop} does not fit a transform of {n_fft} points",
                "a window of 4 or more hops, no longer than the transform and shorter by an even number",
            )
        self.n_fft, self.hop, self.centred = n_fft, hop, centred
        self.offset = (n_fft - window) // 2
        self.padding = n_fft // 2 if centred else self.offset
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(window), persistent=False)


class STFT(_Frames):
    """[B, C, T] real to a pair of [B, C, n_fft / 2 + 1, frames], normalised by 1 / sqrt(n_fft)."""

    def forward(self, wave: Tensor) -> Pair:
        """Raise WorkloadError for a signal that is too short to be reflected."""
        length, pad = wave.shape[-1], self.padding
        if self.centred:
            if length <= pad:
                raise WorkloadError(f"a signal of {length} samples is too short", f"more than {pad} samples")
            wave = F.pad(wave, (pad, pad), mode="reflect")
        else:
            window = len(self.window)
            missing = -(length - window) % self.hop if length > window else window - length
            wave = F.pad(wave, (pad, pad + missing))
        spectrum = torch.stft(
            wave.flatten(0, 1),
            self.n_fft,
            self.hop,
            len(self.window),
            self.window,
            center=False,
            normalized=True,
            return_complex=True,
        )
        real, imag = torch.view_as_real(spectrum.view(*wave.shape[:2], *spectrum.shape[1:])).unbind(-1)
        return real, imag


class ISTFT(_Frames):
    """The inverse: windowed overlap-add over the sum of squared windows.

    torch.istft is not used: it looks for zeros of that sum, which makes control flow depend on data.
    """

    def forward(self, spectrum: Pair, length: int) -> Tensor:
        """Pair of [B, C, n_fft / 2 + 1, frames] to [B, C, length]."""
        bins = torch.complex(*spectrum).transpose(-1, -2)
        frames = torch.fft.irfft(bins, n=self.n_fft, norm="ortho")
        frames = frames.narrow(-1, self.offset, len(self.window)) * self.window
        envelope = self._overlap_add(self.window.square().expand(frames.shape[-2:])).clamp(min=ENVELOPE_FLOOR)
        return (self._overlap_add(frames) / envelope).narrow(-1, self.padding - self.offset, length)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """[..., frames, window] to [..., (frames - 1) hop + window]."""
        hops = frames.view(*frames.shape[:-1], -1, self.hop).unbind(-2)
        shifted = [F.pad(part, (0, 0, index, len(hops) - 1 - index)) for index, part in enumerate(hops)]
        return torch.stack(shifted).sum(0).flatten(-2)
