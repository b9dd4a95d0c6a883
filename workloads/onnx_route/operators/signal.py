"""Fourier transforms and windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workloads.errors import WorkloadError
from workloads.onnx_route.operators.register import Call, operator
from workloads.onnx_route.types import torch_dtype


def _complex(x: Tensor) -> Any:
    """Return [..., 1] as real numbers and [..., 2] as complex ones."""
    if x.shape[-1] not in (1, 2):
        raise WorkloadError(f"the last dimension of {tuple(x.shape)} is neither real (1) nor complex (2)", "1 or 2")
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


@operator("DFT", known="rest")
def _dft(call: Call, x: Tensor, length: Any = None, axis: Any = None) -> Any:
    """Opsets 17 to 19 write the axis as an attribute."""
    along = call.get("axis", 1) if axis is None and call.opset < 20 else -2 if axis is None else int(axis)
    along = along % x.ndim
    signal, size = _complex(x), None if length is None else int(length)
    if call.get("inverse", 0):
        if call.get("onesided", 0):
            return torch.fft.irfft(signal, size, along).unsqueeze(-1)
        return torch.view_as_real(torch.fft.ifft(signal, size, along))
    if call.get("onesided", 0) and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, size, along))
    y = torch.fft.fft(signal, size, along)
    if call.get("onesided", 0):
        y = y.narrow(along, 0, y.shape[along] // 2 + 1)
    return torch.view_as_real(y)


@operator("STFT", known=(1, 3), state=(2,))
def _stft(call: Call, x: Tensor, step: Any, window: Tensor | None = None, length: Any = None) -> Tensor:
    """[batch, samples, 1 or 2] -> [batch, frames, bins, 2], without padding at the ends."""
    signal = _complex(x) if x.ndim == 3 else x
    if length is None and window is None:
        raise WorkloadError("it has neither a window nor a frame length", "give one of them")
    size = int(length) if length is not None else int(window.shape[0]) if window is not None else 0
    onesided = bool(call.get("onesided", 1)) and not signal.is_complex()
    if window is None:
        window = torch.ones(size, dtype=x.dtype, device=x.device)
    y = torch.stft(signal, size, int(step), window.shape[0], window, False, onesided=onesided, return_complex=True)
    return torch.view_as_real(y.transpose(1, 2))


@operator("HannWindow", "HammingWindow", "BlackmanWindow", known=(0,))
def _window(call: Call, size: Any) -> Tensor:
    make = {"HannWindow": torch.hann_window, "HammingWindow": torch.hamming_window}
    run = make.get(call.node.operator, torch.blackman_window)
    dtype = torch_dtype(int(call.get("output_datatype", 1)))
    return run(int(size), periodic=bool(call.get("periodic", 1)), dtype=dtype, device=call.device)
