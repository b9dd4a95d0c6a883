"""Spectrograms of audio as Demucs takes them, and back to audio (Defossez 2021, arXiv 2111.03600).

The hop is a quarter of the window and the Nyquist bin is dropped, so that a signal of T samples gives
n_fft / 2 bins and ceil(T / hop) frames: sizes that strided layers divide evenly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def spectrogram(wave: Tensor, window: Tensor) -> Tensor:
    """[B, C, T] to a complex [B, C, n_fft / 2, ceil(T / hop)], for a Hann `window` [n_fft] and hop n_fft / 4.

    Frame i is centred on sample (i + 1/2) hop; the frames beyond the two ends, mere reflections, are left out. Scaled
    by 1 / sqrt(n_fft). `n_fft` is a multiple of 4.
    """
    (batch, channels, length), n_fft = wave.shape, len(window)
    hop = n_fft // 4
    frames, pad = math.ceil(length / hop), hop // 2 * 3
    wave = pad_reflect(wave, pad, pad + frames * hop - length)
    spectrum = torch.stft(wave.flatten(0, 1), n_fft, hop, window=window, normalized=True, return_complex=True)
    return spectrum[:, :-1, 2 : 2 + frames].view(batch, channels, n_fft // 2, frames)


def waveform(spectrum: Tensor, window: Tensor, length: int) -> Tensor:
    """Complex [..., n_fft / 2, frames] to [..., length]: the inverse of `spectrogram`.

    Overlap-add of the windowed frames, where those left out at the ends (1.5 hops are affected) count as silent.
    Four squared Hann windows a quarter apart add up to 1.5 everywhere, so that torch.istft's search of the envelope
    for zeros, which depends on data, is not needed.
    """
    n_fft = len(window)
    hop = n_fft // 4
    frames = torch.fft.irfft(spectrum.transpose(-1, -2), n=n_fft, norm="ortho") * window / 1.5
    quarters = (F.pad(part, (0, 0, index, 3 - index)) for index, part in enumerate(frames.split(hop, dim=-1)))
    first, second, third, fourth = quarters
    return (first + second + third + fourth).flatten(-2)[..., hop // 2 * 3 :][..., :length]


def as_channels(spectrum: Tensor) -> Tensor:
    """Complex [B, C, bins, frames] to real [B, 2 C, bins, frames]: real and imaginary part of each channel."""
    return torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3).flatten(1, 2)


def as_spectrum(channels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Real [B, 2 prod(shape), bins, frames] to complex [B, *shape, bins, frames]: the inverse of `as_channels`."""
    batch, _, bins, frames = channels.shape
    parts = channels.view(batch, *shape, 2, bins, frames).movedim(-3, -1).transpose(-2, -3)
    return torch.view_as_complex(parts.contiguous()).transpose(-1, -2)


def pad_reflect(wave: Tensor, left: int, right: int) -> Tensor:
    """Reflect at both ends; zeros first, where the signal is too short for it."""
    missing = max(0, max(left, right) + 1 - wave.shape[-1])
    zeros_right = min(right, missing)
    zeros_left = missing - zeros_right
    wave = F.pad(wave, (zeros_left, zeros_right))
    return F.pad(wave, (left - zeros_left, right - zeros_right), mode="reflect")


def normalised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each example less its mean, over its standard deviation; and both."""
    dims = tuple(range(1, x.dim()))
    mean, std = x.mean(dims, keepdim=True), x.std(dims, keepdim=True)
    return (x - mean) / (1e-5 + std), mean, std
