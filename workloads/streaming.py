"""Audio in blocks: cut a stream into overlapping frames, overlap-add them back, run a separator without the past lost.

`FrameCutter` and `OLA` are the plumbing. `StreamingSeparator` runs a causal model on a stream: it cuts at the filters'
kernel and stride (2 ms and 1 ms) and carries what each dilated block remembers, so that its output is that of the
whole signal, whatever the chunks. The usual harness (cut 20 ms frames, separate each alone, overlap-add) is the two
classes around the model's forward: every frame starts without the past of 0.38 s that the masks depend on, so that it
cannot give the same output, and it is ten times as late (`overlap_latency`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.errors import WorkloadError
from workloads.latency import Latency, check_frames, overlap_latency
from workloads.models.conv_tasnet import ConvTasNet


def hann(frame: int) -> Tensor:
    """Return the Hann window [frame], its zeros half a sample outside: sin^2(pi (n + 1/2) / frame), all above zero."""
    return torch.sin(torch.pi * (torch.arange(frame) + 0.5) / frame).square()


class FrameCutter:
    """Cuts a stream of samples [..., T] into frames of `frame` samples, one every `hop`."""

    def __init__(self, frame: int, hop: int) -> None:
        check_frames(frame, hop)
        self.frame, self.hop = frame, hop
        self._held: Tensor | None = None  # samples that a later frame reads, from that frame's first on
        self._fresh = 0  # of these, how many at the end no frame has read

    def push(self, chunk: Tensor) -> None:
        """Append a chunk [..., n] of any length; its other dimensions are those of the first chunk.

        Raises
        ------
        WorkloadError
            If they are not.
        """
        if self._held is None:
            self._held = chunk[..., :0]
        if chunk.shape[:-1] != self._held.shape[:-1]:
            raise WorkloadError(
                f"a chunk of shape {tuple(chunk.shape)} does not continue the stream",
                f"{[*self._held.shape[:-1], 'n']}, as before",
            )
        self._held = torch.cat([self._held, chunk], dim=-1)
        self._fresh += chunk.shape[-1]

    def pull(self) -> Tensor:
        """Return the frames that are complete and not pulled yet, [..., K, frame]; K may be 0."""
        if self._held is None:
            raise WorkloadError("there is no stream yet", "push a chunk first")
        count = max(0, (self._held.shape[-1] - self.frame) // self.hop + 1)
        if not count:
            return self._held.new_empty((*self._held.shape[:-1], 0, self.frame))
        frames = self._held.unfold(-1, self.frame, self.hop)
        self._held = self._held[..., count * self.hop :].clone()
        self._fresh = max(0, self._held.shape[-1] - (self.frame - self.hop))
        return frames

    def flush(self) -> Tensor:
        """End the stream: pad it with zeros until frames cover every sample, and return these frames."""
        if self._held is not None and self._fresh:
            size = self._held.shape[-1]
            self._held = F.pad(self._held, (0, max(self.frame - size, (self.frame - size) % self.hop)))
        frames = self.pull()
        self._held, self._fresh = None, 0
        return frames


class OLA:
    """Overlap-add of frames [..., K, frame] that lie `hop` apart.

    With a `window` [frame] of positive weights a sample is the weighted mean of what the frames say of it, so that
    frames handed through unchanged give the signal back, edges included. Without, frames are just added, as a
    transposed convolution does.
    """

    def __init__(self, frame: int, hop: int, window: Tensor | None = None) -> None:
        check_frames(frame, hop)
        if window is not None and (window.shape != (frame,) or not bool((window > 0).all())):
            raise WorkloadError(
                f"a window of shape {tuple(window.shape)}, least weight {window.min().item():g}, for frames of {frame}",
                "one weight above zero a sample, such as streaming.hann(frame) or torch.ones(frame)",
            )
        self.frame, self.hop, self.window = frame, hop, window
        self._sum: Tensor | None = None  # [..., ready + tail]
        self._weight: Tensor | None = None  # [ready + tail]
        self._ready = 0  # samples that no later frame changes

    def add(self, frames: Tensor) -> None:
        """Add the next K frames [..., K, frame], or a single one [frame]."""
        if not frames.dim() or frames.shape[-1] != self.frame:
            raise WorkloadError(f"frames of shape {tuple(frames.shape)}", f"[..., K, {self.frame}] or [{self.frame}]")
        frames = frames[None] if frames.dim() == 1 else frames
        count = frames.shape[-2]
        if self.window is not None:
            window = self.window.to(frames)
            self._weight = self._append(self._weight, window.expand(count, self.frame))
            frames = frames * window
        self._sum = self._append(self._sum, frames)
        self._ready += count * self.hop

    def _append(self, held: Tensor | None, frames: Tensor) -> Tensor:
        """Return `held`, lengthened by one hop a frame, with the frames added behind its ready samples."""
        count, blocks = frames.shape[-2], math.ceil(self.frame / self.hop)
        if not count:
            return frames.new_empty((*frames.shape[:-2], 0)) if held is None else held
        padded = F.pad(frames, (0, blocks * self.hop - self.frame))
        cut = padded.view(*padded.shape[:-1], blocks, self.hop)
        added = frames.new_zeros((*frames.shape[:-2], count + blocks - 1, self.hop))
        for block in range(blocks):
            added[..., block : block + count, :] += cut[..., block, :]
        added = added.flatten(-2)[..., : count * self.hop + self.frame - self.hop]
        if held is None:
            return added
        tail = held[..., self._ready :]
        added[..., : tail.shape[-1]] += tail
        return torch.cat([held[..., : self._ready], added], dim=-1)

    def read(self, samples: int | None = None) -> Tensor:
        """Return the next `samples` of the signal, [..., samples]; all that no later frame changes, if None.

        Raises
        ------
        WorkloadError
            If fewer are ready.
        """
        if self._sum is None:
            raise WorkloadError("there is no stream yet", "add a frame first")
        samples = self._ready if samples is None else samples
        if samples > self._ready:
            raise WorkloadError(f"{samples} samples asked for, {self._ready} are ready", "add frames first")
        self._ready -= samples
        return self._take(samples)

    def flush(self) -> Tensor:
        """End the stream and return all that is left, to the end of the last frame."""
        if self._sum is None:
            raise WorkloadError("there is no stream yet", "add a frame first")
        rest = self._take(self._sum.shape[-1])
        self._sum, self._weight, self._ready = None, None, 0
        return rest

    def _take(self, samples: int) -> Tensor:
        assert self._sum is not None
        taken, self._sum = self._sum[..., :samples], self._sum[..., samples:].clone()
        if self._weight is not None:
            taken, self._weight = taken / self._weight[:samples], self._weight[samples:].clone()
        return taken


class StreamingSeparator:
    """Runs a ConvTasNet on a stream, chunk by chunk; the concatenated output is `model`'s for the whole signal.

    To float rounding, for chunks of any sizes. It holds `kernel - stride` samples at either end and (taps - 1) dilation
    frames a block: 24,192 values with the default sizes.
    """

    def __init__(self, model: ConvTasNet) -> None:
        self.model = model
        config = model.config
        self._cutter = FrameCutter(config.kernel, config.stride)
        self._overlap = OLA(config.kernel, config.stride)
        self._pasts: list[Tensor] | None = None
        self._behind = 0  # samples pushed and not given back

    def push(self, chunk: Tensor) -> Tensor:
        """Take the next samples [B, 1, n] and return what is now certain of the sources, [B, sources, m]; m may be 0.

        Raises
        ------
        WorkloadError
            If the shape is another, or does not continue the stream.
        """
        if chunk.dim() != 3 or chunk.shape[1] != 1:
            raise WorkloadError(f"StreamingSeparator got a chunk of shape {tuple(chunk.shape)}", "[B, 1, n]")
        self._cutter.push(chunk)
        self._behind += chunk.shape[-1]
        self._separate(self._cutter.pull())
        wave = self._overlap.read()
        self._behind -= wave.shape[-1]
        return wave

    def flush(self) -> Tensor:
        """End the stream and return the rest of the sources [B, sources, m]; the next push starts a new stream."""
        self._separate(self._cutter.flush())
        rest = self._overlap.flush()[..., : self._behind]
        self._pasts, self._behind = None, 0
        return rest

    @torch.no_grad()
    def _separate(self, frames: Tensor) -> None:
        """Separate frames [B, 1, K, kernel] and add them to the output."""
        model = self.model
        if not frames.shape[-2]:  # a convolution takes no empty signal
            self._overlap.add(frames.expand(-1, model.config.sources, -1, -1))
            return
        features = model.encoder.of_frames(frames)
        masks, self._pasts = model.separator.advance(features, self._pasts or model.separator.start(features))
        separated = model.decoder.to_frames((masks * features[:, None]).flatten(0, 1))
        self._overlap.add(separated.view(-1, model.config.sources, *separated.shape[1:]))


def latency(model: ConvTasNet, *, chunk: int = 1) -> Latency:
    """Return the algorithmic latency of `StreamingSeparator(model)` that is fed `chunk` samples at a time.

    It is one filter kernel (stride plus look-ahead), whatever the length of the past that the blocks remember.
    """
    config = model.config
    return overlap_latency(frame=config.kernel, hop=config.stride, sample_rate=config.sample_rate, chunk=chunk)
