"""Complex-valued layers as two real ones each: a complex tensor is the pair of its parts, real and imaginary.

A pair keeps the parts in two real tensors, so that every layer is made of real operators that any chip knows. Complex
convolution and its activations after Trabelsi et al. 2018, "Deep complex networks" (arXiv 1705.09792); the norm is
their naive one, which normalises the parts apart.
"""

from __future__ import annotations

from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
"""Real and imaginary part of one complex tensor, of one shape."""


class ComplexProduct(nn.Module):
    """x -> W x with W = real + j imag, two real maps that run twice each: four real products for a complex one.

    With maps that have a bias or are not linear, such as attention, it is the same combination of their results:
    real(Re x) - imag(Im x) and real(Im x) + imag(Re x).
    """

    def __init__(self, real: nn.Module, imag: nn.Module) -> None:
        super().__init__()
        self.real, self.imag = real, imag

    def forward(self, x: Pair) -> Pair:
        """Two tensors of the shape that the maps take, to two of the shape that they give."""
        real, imag = x
        return self.real(real) - self.imag(imag), self.real(imag) + self.imag(real)


class ComplexConv2d(ComplexProduct):
    """Complex convolution of [B, inputs, F, T], its weight and bias in two real ones."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__(*(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias) for _ in range(2)))


class ComplexConvTranspose2d(ComplexProduct):
    """Complex transposed convolution of [B, inputs, F, T], its weight and bias in two real ones."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        output_padding: tuple[int, int] = (0, 0),
        bias: bool = True,
    ) -> None:
        super().__init__(
            *(nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding, bias=bias) for _ in range(2))
        )


class Partwise(nn.Module):
    """One real module on the real part and another on the imaginary part."""

    def __init__(self, real: nn.Module, imag: nn.Module) -> None:
        super().__init__()
        self.real, self.imag = real, imag

    def forward(self, x: Pair) -> Pair:
        """Two tensors of any shape that the modules take."""
        return self.real(x[0]), self.imag(x[1])


class ComplexBatchNorm2d(Partwise):
    """The naive complex batch norm: each part over its own mean and variance; without `affine` no parameters."""

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(nn.BatchNorm2d(channels, affine=affine), nn.BatchNorm2d(channels, affine=affine))


class ComplexPReLU(Partwise):
    """PReLU on each part, with one slope a part."""

    def __init__(self) -> None:
        super().__init__(nn.PReLU(), nn.PReLU())


class ComplexReLU(Partwise):
    """ReLU on each part (CReLU of arXiv 1705.09792)."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(), nn.ReLU())


class ComplexMask(nn.Module):
    """The complex ratio mask: every bin of a spectrum times its own complex gain."""

    def forward(self, mask: Pair, spectrum: Pair) -> Pair:
        """Two pairs of one shape to their product."""
        (gain, turn), (real, imag) = mask, spectrum
        return gain * real - turn * imag, gain * imag + turn * real
