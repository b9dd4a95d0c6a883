"""MossFormer2: separation of the speakers of a monaural mixture by masks on a learned representation, at 16 kHz.

Written from Zhao et al., "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain
Monaural Speech Separation", 2023 (arXiv 2312.11825), and the sizes of the authors' public release
(modelscope/ClearerVoice-Studio, MossFormer2_SS_16K): 55,735,410 parameters, and 37,755,382 of MossFormer2-S. No control
flow depends on data, so that the model exports, also on the meta device.

Where it does other than the release, it computes the same: v and u are attended to in one product, the padding to
whole groups has no mask (its keys are zero), and rotary angles are made once, not four times a layer. Samples after
the last whole frame are padded and separated too, where the release answers zero for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.models.gated_fsmn import GatedFSMN
from workloads.models.mossformer2_attention import GatedAttention, RotaryPositions

ROTARY_CHANNELS = 32
"""Channels of queries and keys that are rotated, at most (the release)."""


class ScaledPositions(nn.Module):
    """Sinusoidal positions times a learned scale: sines of all frequencies, then cosines (Vaswani et al. 2017)."""

    def __init__(self, channels: int, max_period: float = 10000.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.rates: Tensor
        self.register_buffer("rates", max_period ** (-torch.arange(0, channels, 2) / channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [B, channels, L] with the positions added."""
        phase = self.rates[:, None] * torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
        return x + self.scale * torch.cat([phase.sin(), phase.cos()])


class MossFormerStack(nn.Module):
    """Layers of gated attention and gated FSMN in turn, [B, channels, L] to the same, on a residual connection."""

    def __init__(
        self,
        channels: int,
        layers: int,
        *,
        group: int,
        query_key_dim: int,
        expansion: int,
        bottleneck_dim: int,
        fsmn_order: int,
        fsmn_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.rotary = RotaryPositions(min(ROTARY_CHANNELS, query_key_dim))
        self.attentions = nn.ModuleList(
            GatedAttention(channels, group=group, query_key_dim=query_key_dim, expansion=expansion, dropout=dropout)
            for _ in range(layers)
        )
        self.recurrences = nn.ModuleList(
            GatedFSMN(channels, bottleneck_dim, order=fsmn_order, layers=fsmn_layers, dropout=dropout)
            for _ in range(layers)
        )
        self.norm_channels = nn.LayerNorm(channels, eps=1e-6)
        self.norm_all = nn.GroupNorm(1, channels, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, L]."""
        y = x.transpose(1, 2)
        cosine, sine = self.rotary(y.shape[1])
        for attention, recurrence in zip(self.attentions, self.recurrences, strict=True):
            y = recurrence(attention(y, cosine, sine))
        out: Tensor = x + self.norm_all(self.norm_channels(y).transpose(1, 2))
        return out


class MaskNet(nn.Module):
    """From a mixture's representation [B, N, L] to one non-negative mask a speaker, [B, speakers, N, L]."""

    def __init__(self, embedding_dim: int, sequence_dim: int, speakers: int, stack: MossFormerStack) -> None:
        super().__init__()
        self.speakers = speakers
        self.norm = nn.GroupNorm(1, embedding_dim, eps=1e-8)
        self.enter = nn.Conv1d(embedding_dim, sequence_dim, 1, bias=False)
        self.positions = ScaledPositions(sequence_dim)
        self.stack = stack
        self.activation = nn.PReLU()
        self.part = nn.Conv1d(sequence_dim, sequence_dim * speakers, 1)
        self.output, self.gate = (nn.Conv1d(sequence_dim, sequence_dim, 1) for _ in range(2))
        self.leave = nn.Conv1d(sequence_dim, embedding_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, L] to [B, speakers, N, L]."""
        x = self.stack(self.positions(self.enter(self.norm(x))))
        x = self.part(self.activation(x)).unflatten(1, (self.speakers, -1)).flatten(0, 1)
        x = torch.tanh(self.output(x)) * torch.sigmoid(self.gate(x))
        masks: Tensor = F.relu(self.leave(x))
        return masks.view(-1, self.speakers, *masks.shape[1:])


class MossFormer2(nn.Module):
    """MossFormer2. Input [B, T] or [B, 1, T] at 16 kHz, T of any length; output [B, speakers, T].

    Strided convolution of `kernel` samples, by half of it, to `embedding_dim` channels; masks by `layers` layers in
    `sequence_dim` channels; transposed convolution of the masked representation. Attention is quadratic within
    `group` frames. The recurrent modules have `bottleneck_dim` channels and `fsmn_layers` filters of 2 `fsmn_order` - 1
    taps. MossFormer2-S has 25 layers and 384 channels.

    Raises WorkloadError for sizes that do not fit together, and for an input of the wrong shape.
    """

    def __init__(
        self,
        *,
        speakers: int = 2,
        layers: int = 24,
        embedding_dim: int = 512,
        sequence_dim: int = 512,
        kernel: int = 16,
        bottleneck_dim: int = 256,
        fsmn_layers: int = 2,
        fsmn_order: int = 20,
        group: int = 256,
        query_key_dim: int = 128,
        expansion: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("kernel", kernel), ("query_key_dim", query_key_dim), ("sequence_dim", sequence_dim)):
            if value < 2 or value % 2:
                raise WorkloadError(f"{name} is {value}", "an even number of at least 2")
        for name, value in (("speakers", speakers), ("layers", layers), ("group", group)):
            if value < 1:
                raise WorkloadError(f"{name} is {value}", "at least 1")
        self.kernel, self.hop = kernel, kernel // 2
        self.encoder = nn.Conv1d(1, embedding_dim, kernel, self.hop, bias=False)
        stack = MossFormerStack(
            sequence_dim,
            layers,
            group=group,
            query_key_dim=query_key_dim,
            expansion=expansion,
            bottleneck_dim=bottleneck_dim,
            fsmn_order=fsmn_order,
            fsmn_layers=fsmn_layers,
            dropout=dropout,
        )
        self.mask_net = MaskNet(embedding_dim, sequence_dim, speakers, stack)
        self.decoder = nn.ConvTranspose1d(embedding_dim, 1, kernel, self.hop, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """[B, T] or [B, 1, T] to [B, speakers, T]."""
        shape = tuple(mixture.shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != 1) or not shape[-1]:
            raise WorkloadError(f"MossFormer2 got an input of shape {shape}", "[B, T] or [B, 1, T], T at least 1")
        length = shape[-1]
        hops = max(1, -(-(length - self.kernel) // self.hop))  # one at least: instance norm needs two frames
        wave = F.pad(mixture.reshape(shape[0], 1, length), (0, self.kernel + hops * self.hop - length))
        representation = F.relu(self.encoder(wave))
        masked = representation[:, None] * self.mask_net(representation)
        sources: Tensor = self.decoder(masked.flatten(0, 1))
        return sources.view(shape[0], -1, sources.shape[-1])[..., :length]
