"""BCCTN: speech enhancement for two ears by complex ratio masks; the published net, and the one of the owner's table.

`BCCTN` is written from Tokala, Grinstein, Brookes, Doclo, Jensen, Naylor 2024, "Binaural speech enhancement using deep
complex convolutional transformer networks" (arXiv 2403.05393), with the sizes of the authors' public code: 11,086,488
parameters, where a complex number of the linear layer counts once. `BCCTNTable` is the net of a layer table whose
figures belong to no published code: 4,278,912 parameters; its docstring says how the table was read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.complex_layers import (
    ComplexBatchNorm2d,
    ComplexConv2d,
    ComplexConvTranspose2d,
    ComplexMask,
    ComplexPReLU,
    ComplexProduct,
    ComplexReLU,
    Pair,
)
from workloads.models.spectrogram import ISTFT, STFT

EARS = 2


class SelfAttention(nn.Module):
    """Multi-head self-attention of [B, T, width]."""

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise WorkloadError(f"{heads} heads do not divide a width of {width}", "a divisor of the width")
        self.mha = nn.MultiheadAttention(width, heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] to the same."""
        out: Tensor = self.mha(x, x, x, need_weights=False)[0]
        return out


class Bottleneck(nn.Module):
    """Attention over time between all channels and bins of both ears, then a complex linear layer.

    Attention runs on the real and on the imaginary part, with one set of weights for each part of the result.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = ComplexProduct(SelfAttention(width, heads), SelfAttention(width, heads))
        self.linear = nn.Linear(width, width, dtype=torch.complex64)

    def forward(self, x: Pair) -> Pair:
        """Pair of [B, C, F, T] with C F = width, to the same."""
        real, imag = self.attention((_as_sequence(x[0]), _as_sequence(x[1])))
        parts: Tensor = torch.view_as_real(self.linear(torch.complex(real, imag)))
        real, imag = (part.transpose(1, 2).view(x[0].shape) for part in parts.unbind(-1))
        return real, imag


class Encoder(nn.ModuleList):
    """Complex convolutions with stride 2 over frequency, each with norm and PReLU; each adds one frame."""

    def __init__(self, channels: Sequence[int], kernel: tuple[int, int]) -> None:
        super().__init__(
            _block(ComplexConv2d(before, after, kernel, stride=(2, 1), padding=(kernel[0] // 2, 1)), after)
            for before, after in pairwise(channels)
        )

    def forward(self, x: Pair) -> list[Pair]:
        """Pair of [B, 1, F, T] to those of [B, C, F / 2^i, T + i], i = 1, 2, ..."""
        outputs: list[Pair] = []
        for layer in self:
            x = layer(x)
            outputs.append(x)
        return outputs


class Decoder(nn.ModuleList):
    """The encoder's mirror: each layer reads the encoder's output of its size beside the layer before."""

    def __init__(self, channels: Sequence[int], kernel: tuple[int, int]) -> None:
        widths, padding = channels[::-1], (kernel[0] // 2, 1)
        *inner, last = (
            ComplexConvTranspose2d(2 * before, after, kernel, stride=(2, 1), padding=padding, output_padding=(1, 0))
            for before, after in pairwise(widths)
        )
        super().__init__([*(_block(conv, after) for conv, after in zip(inner, widths[1:-1], strict=True)), last])

    def forward(self, x: Pair, skips: Sequence[Pair]) -> Pair:
        """Pair of [B, C, F / 2^depth, T + depth] and the encoder's outputs, to [B, 1, F, T]."""
        for layer, skip in zip(self, reversed(skips), strict=True):
            x = layer(_cat(x, skip))
        return x


class BCCTN(nn.Module):
    """Binaural complex convolutional transformer network. Input [B, 2, T] at 16 kHz, left and right; output the same.

    An encoder for each ear (`shared_encoder`: one for both, with the same weights), attention over both ears in
    `heads` heads, one decoder for both, and a complex mask for each. `channels` are complex. The mask leaves the
    bin of 0 Hz at zero.

    Raises WorkloadError for sizes that do not fit together, and for an input of the wrong shape or shorter than half a
    transform.
    """

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32, 64, 128, 128),
        *,
        kernel: tuple[int, int] = (5, 2),
        n_fft: int = 512,
        window: int = 400,
        hop: int = 100,
        heads: int = 32,
        shared_encoder: bool = True,
    ) -> None:
        super().__init__()
        bins = _bins_at_depth(n_fft, len(channels))
        widths = [1, *channels]
        self.stft = STFT(n_fft, window, hop, centred=True)
        self.encoders = nn.ModuleList(Encoder(widths, kernel) for _ in range(1 if shared_encoder else EARS))
        self.bottleneck = Bottleneck(EARS * channels[-1] * bins, heads)
        self.decoder = Decoder(widths, kernel)
        self.mask = ComplexMask()
        self.istft = ISTFT(n_fft, window, hop, centred=True)

    def encode(self, spectrum: Pair) -> list[list[Pair]]:
        """Pair of [B, 2, n_fft / 2, T] to the outputs of the encoder's layers, for each ear."""
        ears = zip(*(part.chunk(EARS, dim=1) for part in spectrum), strict=True)
        return [self.encoders[index % len(self.encoders)](ear) for index, ear in enumerate(ears)]

    def forward(self, wave: Tensor) -> Tensor:
        """[B, 2, T] to [B, 2, T]."""
        _check_binaural(wave, "BCCTN")
        real, imag = spectrum = self.stft(wave)
        ears = self.encode((real[:, :, 1:], imag[:, :, 1:]))  # without the bin of 0 Hz
        deepest = [torch.cat([ear[-1][part] for ear in ears], dim=1) for part in (0, 1)]
        attended = [part.chunk(EARS, dim=1) for part in self.bottleneck((deepest[0], deepest[1]))]
        masks = [self.decoder(x, skips) for x, skips in zip(zip(*attended, strict=True), ears, strict=True)]
        real, imag = (F.pad(torch.cat(part, dim=1), (0, 0, 1, 0)) for part in zip(*masks, strict=True))
        out: Tensor = self.istft(self.mask((real, imag), spectrum), wave.shape[-1])
        return out


class ToSequence(nn.Module):
    """Pair of [B, C, F, T] to one real sequence [B, T, 2 C bins], frequency averaged to so many `bins`."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((bins, None))

    def forward(self, x: Pair) -> Tensor:
        """Real part first."""
        return _as_sequence(self.pool(torch.cat(x, dim=1)))


class FromSequence(nn.Module):
    """The way back: [B, T, 2 C bins] to a pair of [B, C, F, T], each bin repeated over its neighbours."""

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.channels, self.frequencies = channels, frequencies

    def forward(self, x: Tensor) -> Pair:
        """Real part first."""
        x = x.transpose(1, 2).view(x.shape[0], 2 * self.channels, -1, x.shape[1])
        real, imag = F.interpolate(x, size=(self.frequencies, x.shape[-1])).chunk(2, dim=1)
        return real, imag


class BCCTNTable(nn.Module):
    """The net that the owner's table of BCCTN describes. Input [B, 2, T] at 16 kHz, left and right; output the same.

    How the table was read, so that a net comes out whose parameters are those of its rows (4,278,912), exactly:

    - "2 -> 16" with 2 x 16 x 5 x 2 weights: the ears are the two complex channels of one encoder and one decoder. The
      decoder's rows have no room for skip connections, though the table's remarks speak of them.
    - No row leaves room for biases or parameters of norms: there are no biases, the batch norm has no scale and shift,
      and ReLU on each part stands for PReLU.
    - 157 frames of 1 s need windows that are not centred: (16,000 - 400) / 100 + 1.
    - The flattened (256, 5, 157) is 2 x 256 x 5 = 2,560 real numbers a frame, not E = 1024. Averaged over frequency to
      2 bins it is 2 x 256 x 2 = 1024: real and imaginary parts in one real sequence, as the rows of the projections
      and of attention count it (once).
    - "Split -> L/R (256, 5, 157) x 2" are then the two parts, each bin repeated over its neighbours: the ears part
      only in the decoder's last layer, in its two channels.

    Raises WorkloadError for sizes that do not fit together, and for an input of the wrong shape.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 256),
        *,
        n_fft: int = 512,
        window: int = 400,
        hop: int = 100,
        width: int = 1024,
        attention_width: int = 512,
        heads: int = 32,
    ) -> None:
        super().__init__()
        bins = _bins_at_depth(n_fft, len(channels)) + 1
        pooled, rest = divmod(width, 2 * channels[-1])
        if rest or not 0 < pooled <= bins:
            raise WorkloadError(
                f"a sequence of width {width} does not hold two parts of {channels[-1]} channels",
                f"a multiple of {2 * channels[-1]}, up to {2 * channels[-1] * bins}",
            )
        widths, kernel, stride, padding = [EARS, *channels], (5, 1), (2, 1), (2, 0)
        self.stft = STFT(n_fft, window, hop, centred=False)
        self.encoder = nn.Sequential(
            *(
                _plain_block(ComplexConv2d(before, after, kernel, stride=stride, padding=padding, bias=False), after)
                for before, after in pairwise(widths)
            )
        )
        self.flatten = ToSequence(pooled)
        self.project_in = nn.Linear(width, attention_width, bias=False)
        self.attention = SelfAttention(attention_width, heads, bias=False)
        self.project_out = nn.Linear(attention_width, width, bias=False)
        self.split = FromSequence(channels[-1], bins)
        back = widths[::-1]
        *inner, last = (
            ComplexConvTranspose2d(before, after, kernel, stride=stride, padding=padding, bias=False)
            for before, after in pairwise(back)
        )
        self.decoder = nn.Sequential(
            *(_plain_block(conv, after) for conv, after in zip(inner, back[1:-1], strict=True)), last
        )
        self.mask = ComplexMask()
        self.istft = ISTFT(n_fft, window, hop, centred=False)

    def forward(self, wave: Tensor) -> Tensor:
        """[B, 2, T] to [B, 2, T]."""
        _check_binaural(wave, "BCCTNTable")
        spectrum = self.stft(wave)
        sequence = self.flatten(self.encoder(spectrum))
        sequence = self.project_out(self.attention(self.project_in(sequence)))
        mask = self.decoder(self.split(sequence))
        out: Tensor = self.istft(self.mask(mask, spectrum), wave.shape[-1])
        return out


def _block(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv, norm=ComplexBatchNorm2d(channels), activation=ComplexPReLU()))


def _plain_block(conv: nn.Module, channels: int) -> nn.Sequential:
    """A block whose only parameters are the convolution's."""
    norm = ComplexBatchNorm2d(channels, affine=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm, activation=ComplexReLU()))


def _cat(x: Pair, y: Pair) -> Pair:
    """Channels of two pairs, one behind the other."""
    return torch.cat([x[0], y[0]], dim=1), torch.cat([x[1], y[1]], dim=1)


def _as_sequence(x: Tensor) -> Tensor:
    """[B, C, F, T] to [B, T, C F]."""
    return x.flatten(1, 2).transpose(1, 2)


def _bins_at_depth(n_fft: int, depth: int) -> int:
    """Return n_fft / 2 over 2^depth, the bins that `depth` layers of stride 2 leave of those above 0 Hz."""
    factor = 1 << depth
    if not depth or n_fft // 2 % factor or not n_fft:
        raise WorkloadError(
            f"{depth} layers of stride 2 do not fit the {n_fft // 2} bins of n_fft={n_fft}",
            "at least one layer, and n_fft / 2 a multiple of 2^layers",
        )
    return n_fft // 2 // factor


def _check_binaural(wave: Tensor, name: str) -> None:
    if wave.dim() != 3 or wave.shape[1] != EARS or not wave.shape[2]:
        raise WorkloadError(f"{name} got an input of shape {tuple(wave.shape)}", f"[B, {EARS}, T]")
