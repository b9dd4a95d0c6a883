"""HTDemucs_n: HTDemucs with four parts changed, after the owner's specification.

1. Multi-resolution spectrograms beside the one of adaptive size (`multi_resolution`).
2. ResUNet++ as frequency branch (`resunet`).
3. A linear-attention transformer instead of the cross-domain transformer (`linear_transformer`).
4. Learned fusion of the frequency branch into the time branch (`frequency_time_fusion`).

The time branch is HTDemucs's (arXiv 2211.08553). The specification's text does not run as it stands; what it
contradicts or leaves open is settled here so:

- The first frequency layer reads what is concatenated: the fused features and the real and imaginary parts of the
  stereo spectrogram, 64 + 2 x audio_channels. The multi-resolution encoder hears the mid signal.
- The adaptive spectrogram has n_fft = min(largest of n_ffts, T / 4), down to a multiple of 4, and the multi-resolution
  features are brought to its size. That is the 4096 of the specification and "the largest resolution" where T is
  long enough and n_ffts is the default.
- Each of the `depth` stages of the ResUNet++ strides, so that its bottleneck has as many places as HTDemucs's
  (128 x 21 for 8 x 336 at 7.8 s), and 4,032 tokens with those of the time branch: within 8,000 positions.
- The transformer reads the places of both branches as one sequence, projected to channels x growth^depth = 768, so
  that self-attention is also attention across domains. Frequency places come bin by bin. Positions are relative to
  the sequence (see LearnedPositions), so that audio of any length has them.
- Encoders of the time branch pad and decoders trim as in HTDemucs, so that a skip always has the decoder's length and
  the interpolation that the specification asks for has nothing to do.
- Both branches' waveforms are added, as in HTDemucs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.frequency_time_fusion import FrequencyTimeFusion
from workloads.models.htdemucs import SOURCES, DecoderLayer, EncoderLayer, rescale_convolutions
from workloads.models.htdemucs_spectrum import as_channels, as_spectrum, normalised, spectrogram, waveform
from workloads.models.htdemucs_transformer import DConv
from workloads.models.linear_transformer import LinearTransformer
from workloads.models.multi_resolution import MultiResolutionEncoder
from workloads.models.resunet import ResUNetDecoder, ResUNetEncoder

KERNEL, STRIDE = 8, 4
"""Of the time branch, as in HTDemucs."""

SHORTEST = 64
"""Samples from which audio has an adaptive spectrogram (16-point windows); zeros fill up what is shorter."""


class HTDemucsN(nn.Module):
    """HTDemucs_n. Input [B, audio_channels, T] at `samplerate`, output [B, sources, audio_channels, T], any T >= 1.

    `channels`, `growth`, `depth`: of the time branch; the ResUNet++ has `depth` stages from `resunet_channels` on, and
    the transformer is channels x growth^depth wide. In evaluation a shorter input is padded to `segment_s`, the length
    it was trained on, unless `use_train_segment` is False.

    Raises WorkloadError for sizes that do not fit together, and for an input of the wrong shape.
    """

    def __init__(
        self,
        sources: Sequence[str] = SOURCES,
        *,
        audio_channels: int = 2,
        channels: int = 48,
        growth: int = 2,
        depth: int = 4,
        n_ffts: Sequence[int] = (512, 1024, 2048, 4096),
        resolution_channels: int = 64,
        resunet_channels: int = 64,
        t_layers: int = 5,
        t_heads: int = 8,
        t_head_dim: int = 64,
        t_hidden_scale: int = 4,
        positions: int = 8000,
        samplerate: int = 44100,
        segment_s: float = 7.8,
        use_train_segment: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise WorkloadError(f"depth {depth}", "at least 1")
        self.sources, self.audio_channels = tuple(sources), audio_channels
        self.samplerate, self.segment_s, self.use_train_segment = samplerate, segment_s, use_train_segment
        self.multi_resolution = MultiResolutionEncoder(n_ffts, channels=resolution_channels)

        spectrum_channels = 2 * audio_channels  # real and imaginary parts
        self.frequency_encoder = ResUNetEncoder(
            resolution_channels + spectrum_channels, base=resunet_channels, depth=depth
        )
        self.frequency_decoder = ResUNetDecoder(self.frequency_encoder.widths, len(self.sources) * spectrum_channels)

        widths = [audio_channels, *(channels * growth**index for index in range(depth))]
        outputs = [audio_channels * len(self.sources), *widths[1:]]
        self.time_encoder, self.time_decoder = nn.ModuleList(), nn.ModuleList()
        for index, (before, width, after) in enumerate(zip(widths, widths[1:], outputs, strict=False)):
            encode = EncoderLayer(before, width, frequency=False, kernel=KERNEL, stride=STRIDE, context=0, groups=0)
            encode.residual = DConv(width)
            decode = DecoderLayer(
                width,
                after,
                frequency=False,
                kernel=KERNEL,
                stride=STRIDE,
                context=1,
                groups=0,
                last=index == 0,
            )
            self.time_encoder.append(encode)
            self.time_decoder.insert(0, decode)
        for branch in (self.time_encoder, self.time_decoder):
            rescale_convolutions(branch, 0.1)

        bottom, width = self.frequency_encoder.widths[-1], channels * growth**depth
        self.frequency_to_tokens, self.tokens_to_frequency = nn.Linear(bottom, width), nn.Linear(width, bottom)
        self.time_to_tokens, self.tokens_to_time = nn.Linear(widths[-1], width), nn.Linear(width, widths[-1])
        self.transformer = LinearTransformer(
            width,
            layers=t_layers,
            heads=t_heads,
            head_dim=t_head_dim,
            hidden_scale=t_hidden_scale,
            positions=positions,
        )
        self.fusion = FrequencyTimeFusion(bottom, widths[-1])

    @property
    def segment_samples(self) -> int:
        """Samples of the segment that it is trained on."""
        return int(self.segment_s * self.samplerate)

    def forward(self, mix: Tensor) -> Tensor:
        """[B, audio_channels, T] to [B, sources, audio_channels, T]."""
        if mix.dim() != 3 or mix.shape[1] != self.audio_channels or not mix.shape[2]:
            raise WorkloadError(
                f"HTDemucs_n got an input of shape {tuple(mix.shape)}", f"[B, {self.audio_channels}, T]"
            )
        length = mix.shape[-1]
        padded = self.segment_samples if self.use_train_segment and not self.training else SHORTEST
        mix = F.pad(mix, (0, max(0, padded - length)))
        y, mean_time, std_time = normalised(mix)

        window = self._window(mix)
        x, mean, std = normalised(as_channels(spectrogram(mix, window)))
        bins, frames = x.shape[2:]
        x = torch.cat([self.multi_resolution(y, (bins, frames)), x], dim=1)
        x, skips = self.frequency_encoder(x)
        saved: list[tuple[Tensor, int]] = []
        for encode in self.time_encoder:
            size = y.shape[-1]
            y = encode(y)
            saved.append((y, size))

        x, y = self._across_domains(x, y)
        y = self.fusion(x, y)

        x = self.frequency_decoder(x, skips)[..., :bins, :frames]
        for decode in self.time_decoder:
            y = decode(y, *saved.pop())
        wave = waveform(as_spectrum(x * std + mean, (len(self.sources), self.audio_channels)), window, mix.shape[-1])
        out: Tensor = wave + (y * std_time + mean_time).view(wave.shape)
        return out[..., :length]

    def _window(self, mix: Tensor) -> Tensor:
        """Return the window of the adaptive spectrogram of `mix` [B, C, T]."""
        n_fft = min(max(self.multi_resolution.n_ffts), mix.shape[-1] // 4 // 4 * 4)
        return torch.hann_window(n_fft, dtype=mix.dtype, device=mix.device)

    def _across_domains(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, bins, frames] and [B, D, N] to the same, through the transformer as one sequence."""
        bins, frames = x.shape[2:]
        tokens = torch.cat(
            [self.frequency_to_tokens(x.flatten(2).transpose(1, 2)), self.time_to_tokens(y.transpose(1, 2))], dim=1
        )
        of_frequency, of_time = self.transformer(tokens).split([bins * frames, y.shape[-1]], dim=1)
        x = self.tokens_to_frequency(of_frequency).transpose(1, 2).unflatten(2, (bins, frames))
        return x, self.tokens_to_time(of_time).transpose(1, 2)
