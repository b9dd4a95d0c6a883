"""HTDemucs: separation of a stereo mixture into drums, bass, other and vocals, in spectrogram and waveform at once.

Written from Defossez 2021 (arXiv 2111.03600, the hybrid U-Net) and Rouard, Massa, Defossez 2022 (arXiv 2211.08553, the
transformer between its halves), with the public defaults of the authors' release: 26,899,536 parameters; the weights
they released have `dconv_mode=3, bottom_channels=512` and 41,984,456. No control flow depends on data, so that the
model exports, also on the meta device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.htdemucs_spectrum import as_channels, as_spectrum, normalised, spectrogram, waveform
from workloads.models.htdemucs_transformer import CrossTransformer, DConv

SOURCES = ("drums", "bass", "other", "vocals")


class EncoderLayer(nn.Module):
    """Strided convolution, GELU, residual branches, 1x1 (or wider) convolution and GLU.

    On a spectrogram [B, C, F, T] it strides over frequency; on a waveform [B, C, T] over time.
    """

    def __init__(
        self, inputs: int, outputs: int, *, frequency: bool, kernel: int, stride: int, context: int, groups: int
    ) -> None:
        super().__init__()
        self.frequency, self.stride = frequency, stride
        conv = nn.Conv2d if frequency else nn.Conv1d
        size, step, pad = ((kernel, 1), (stride, 1), (kernel // 4, 0)) if frequency else (kernel, stride, kernel // 4)
        self.conv = conv(inputs, outputs, size, step, pad)  # type: ignore[arg-type]
        self.norm = nn.GroupNorm(groups, outputs) if groups else nn.Identity()
        self.residual: nn.Module = nn.Identity()
        self.rewrite = conv(outputs, 2 * outputs, 1 + 2 * context, 1, context)
        self.norm_rewrite = nn.GroupNorm(groups, 2 * outputs) if groups else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] to [B, outputs, F / stride, T], or [B, inputs, T] to [B, outputs, ceil(T / stride)]."""
        if not self.frequency and x.shape[-1] % self.stride:
            x = F.pad(x, (0, self.stride - x.shape[-1] % self.stride))
        x = _over_time(self.residual, F.gelu(self.norm(self.conv(x))))
        return F.glu(self.norm_rewrite(self.rewrite(x)), dim=1)


class DecoderLayer(nn.Module):
    """The encoder layer's mirror: skip added, convolution and GLU, residual branches, transposed convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        frequency: bool,
        kernel: int,
        stride: int,
        context: int,
        groups: int,
        last: bool,
    ) -> None:
        super().__init__()
        self.frequency, self.last, self.trim = frequency, last, kernel // 4
        conv, size = (nn.Conv2d if frequency else nn.Conv1d), 1 + 2 * context
        self.rewrite = conv(inputs, 2 * inputs, size, 1, context)
        self.norm_rewrite = nn.GroupNorm(groups, 2 * inputs) if groups else nn.Identity()
        self.residual: nn.Module = nn.Identity()
        if frequency:
            self.conv: nn.Module = nn.ConvTranspose2d(inputs, outputs, (kernel, 1), (stride, 1))
        else:
            self.conv = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.norm = nn.GroupNorm(groups, outputs) if groups else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor, length: int) -> Tensor:
        """Back to the shape that the encoder layer read: `length` bins of frequency or samples of time."""
        x = F.glu(self.norm_rewrite(self.rewrite(x + skip)), dim=1)
        x = self.norm(self.conv(_over_time(self.residual, x)))
        x = x.narrow(2, self.trim, length)
        return x if self.last else F.gelu(x)


def _over_time(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module of [B, C, T] to each frequency of [B, C, F, T] alone."""
    if isinstance(module, nn.Identity):
        return x
    out: Tensor = module(x if x.dim() == 3 else x.transpose(1, 2).flatten(0, 1))
    return out if x.dim() == 3 else out.view(x.shape[0], x.shape[2], *out.shape[1:]).transpose(1, 2)


class FrequencyEmbedding(nn.Module):
    """A learned vector a frequency bin, smooth at first over neighbours (arXiv 2111.03600).

    The table is kept `scale` times smaller than it acts, which makes it learn `scale` times faster.
    """

    def __init__(self, bins: int, channels: int, *, scale: float, weight: float) -> None:
        super().__init__()
        self.table = nn.Embedding(bins, channels)
        self.gain = scale * weight
        with torch.no_grad():  # a random walk of unit variance
            walk = self.table.weight.cumsum(0) / torch.arange(1, bins + 1).sqrt()[:, None]
            self.table.weight.copy_(walk / scale)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, C, F, T] with the embedding of each frequency added."""
        vectors: Tensor = self.table(torch.arange(x.shape[2], device=x.device))
        return x + self.gain * vectors.T[None, :, :, None]


class HTDemucs(nn.Module):
    """Hybrid Transformer Demucs. Input [B, audio_channels, T] at `samplerate`, output [B, sources, audio_channels, T].

    Spectrogram branch: complex spectrogram as channels (`cac`), `depth` strided layers over frequency. Waveform branch:
    the same over time. Between encoder and decoder a cross-domain transformer of `t_layers` layers, in
    `bottom_channels` channels where not 0. `dconv_mode`: bit 1 puts residual branches into the encoders, bit 2 into
    the decoders. Norms begin at layer `norm_starts`. In evaluation a shorter input is padded to `segment_s`, the
    length it was trained on, unless `use_train_segment` is False.

    Raises WorkloadError for sizes that do not fit together, and for an input of the wrong shape.
    """

    def __init__(
        self,
        sources: Sequence[str] = SOURCES,
        *,
        audio_channels: int = 2,
        channels: int = 48,
        growth: int = 2,
        nfft: int = 4096,
        depth: int = 4,
        kernel: int = 8,
        stride: int = 4,
        context: int = 1,
        context_enc: int = 0,
        norm_starts: int = 4,
        norm_groups: int = 4,
        dconv_mode: int = 1,
        dconv_depth: int = 2,
        dconv_comp: int = 8,
        dconv_init: float = 1e-3,
        freq_emb: float = 0.2,
        emb_scale: float = 10.0,
        bottom_channels: int = 0,
        t_layers: int = 5,
        t_hidden_scale: float = 4.0,
        t_heads: int = 8,
        rescale: float = 0.1,
        samplerate: int = 44100,
        segment_s: float = 10.0,
        use_train_segment: bool = True,
    ) -> None:
        super().__init__()
        if nfft // 2 % stride**depth or nfft // 2 // stride ** (depth - 1) <= kernel:
            raise WorkloadError(
                f"depth {depth}, stride {stride} and kernel {kernel} do not fit the {nfft // 2} frequencies of {nfft=}",
                "nfft / 2 a multiple of stride^depth, and above kernel before the last layer",
            )
        self.sources, self.audio_channels = tuple(sources), audio_channels
        self.samplerate, self.segment_s, self.use_train_segment = samplerate, segment_s, use_train_segment
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(nfft), persistent=False)

        widths = [channels * growth**index for index in range(depth)]
        stacks = {}
        for frequency in (True, False):
            inputs = audio_channels * (2 if frequency else 1)  # real and imaginary parts
            encoder, decoder = nn.ModuleList(), nn.ModuleList()
            for index, width in enumerate(widths):
                before = widths[index - 1] if index else inputs
                after = before if index else inputs * len(self.sources)
                groups = norm_groups if index >= norm_starts else 0
                encode = EncoderLayer(
                    before, width, frequency=frequency, kernel=kernel, stride=stride, context=context_enc, groups=groups
                )
                decode = DecoderLayer(
                    width,
                    after,
                    frequency=frequency,
                    kernel=kernel,
                    stride=stride,
                    context=context,
                    groups=groups,
                    last=index == 0,
                )
                for layer, bit in ((encode, 1), (decode, 2)):
                    if dconv_mode & bit:
                        layer.residual = DConv(width, compress=dconv_comp, depth=dconv_depth, init=dconv_init)
                encoder.append(encode)
                decoder.insert(0, decode)
            stacks[frequency] = encoder, decoder
        self.encoder, self.decoder = stacks[True]
        self.time_encoder, self.time_decoder = stacks[False]
        self.freq_emb = (
            FrequencyEmbedding(nfft // 2 // stride, channels, scale=emb_scale, weight=freq_emb)
            if freq_emb
            else nn.Identity()
        )
        if rescale:
            rescale_convolutions(self, rescale)

        width = bottom_channels or widths[-1]
        self.upsample, self.downsample, self.time_upsample, self.time_downsample = (
            nn.Conv1d(inputs, outputs, 1) if bottom_channels else nn.Identity()
            for inputs, outputs in 2 * ((widths[-1], width), (width, widths[-1]))
        )
        self.transformer = (
            CrossTransformer(width, layers=t_layers, heads=t_heads, hidden_scale=t_hidden_scale) if t_layers else None
        )

    @property
    def segment_samples(self) -> int:
        """Samples of the segment that it is trained on."""
        return int(self.segment_s * self.samplerate)

    def forward(self, mix: Tensor) -> Tensor:
        """[B, audio_channels, T] to [B, sources, audio_channels, T]."""
        if mix.dim() != 3 or mix.shape[1] != self.audio_channels or not mix.shape[2]:
            raise WorkloadError(f"HTDemucs got an input of shape {tuple(mix.shape)}", f"[B, {self.audio_channels}, T]")
        length = mix.shape[-1]
        if self.use_train_segment and not self.training and length < self.segment_samples:
            mix = F.pad(mix, (0, self.segment_samples - length))

        x, mean, std = normalised(self._spectrogram(mix))
        y, mean_time, std_time = normalised(mix)
        saved: list[tuple[Tensor, int, Tensor, int]] = []
        for index, (encode, encode_time) in enumerate(zip(self.encoder, self.time_encoder, strict=True)):
            sizes = x.shape[2], y.shape[2]
            x, y = encode(x), encode_time(y)
            if index == 0:
                x = self.freq_emb(x)
            saved.append((x, sizes[0], y, sizes[1]))

        if self.transformer is not None:
            bins = x.shape[2]
            x = self.upsample(x.flatten(2)).unflatten(2, (bins, -1))
            x, y = self.transformer(x, self.time_upsample(y))
            x = self.downsample(x.flatten(2)).unflatten(2, (bins, -1))
            y = self.time_downsample(y)

        for decode, decode_time in zip(self.decoder, self.time_decoder, strict=True):
            skip, size, skip_time, size_time = saved.pop()
            x, y = decode(x, skip, size), decode_time(y, skip_time, size_time)
        wave, y = self._waveform(x * std + mean, mix.shape[-1]), y * std_time + mean_time
        return (wave + y.view(wave.shape))[..., :length]

    def _spectrogram(self, wave: Tensor) -> Tensor:
        """[B, C, T] to [B, 2 C, nfft / 2, ceil(T / hop)]: real and imaginary parts."""
        return as_channels(spectrogram(wave, self.window))

    def _waveform(self, parts: Tensor, length: int) -> Tensor:
        """[B, S 2 C, nfft / 2, frames] to [B, S, C, length]: the inverse of `_spectrogram`."""
        return waveform(as_spectrum(parts, (len(self.sources), self.audio_channels)), self.window, length)


def rescale_convolutions(model: nn.Module, reference: float) -> None:
    """Divide weight and bias of each convolution by sqrt(std / reference) (Defossez et al. 2019, arXiv 1911.13254)."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
            with torch.no_grad():
                scale = (module.weight.std() / reference).sqrt()
                module.weight /= scale
                if module.bias is not None:
                    module.bias /= scale
