"""What is hard to cut: in-place operators, state, several outputs, complex numbers, odd views, bodies, constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dse.errors import DseError
from dse.mapped_model import run_mapped
from tests.dse.mapped_model_help import Call, proven, random_slots, segmented
from workloads.errors import WorkloadError

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Call, tuple[Any, ...]]] = {}


def case(*inputs: Any, **held: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = Call(function, **held), inputs or (X,)
        return function

    return register


@case(linear=nn.Linear(6, 3))
def writes_into_parts_of_a_tensor(m, x):
    y = torch.zeros(4, 6)
    y[:, :3] = m.linear(x)
    y[1:3] += 1.0
    z = y.relu()
    y.mul_(2)
    y[:, 5].fill_(7.0)
    return z + y.T.contiguous().tanh_().T, y


@case()
def writes_through_views(m, x):
    y = x.exp()
    flat = y.view(-1)
    y.add_(1)
    part = flat[3:9]
    part.mul_(2)
    return flat.sin(), y.cos(), part.exp()


@case(picked=torch.tensor([0, 3]))
def writes_by_index(m, x):
    y = x.exp()
    y[[0, 2]] = 5.0
    y[:, m.picked] = x[:, :2]
    y.index_add_(0, m.picked, x[:2])
    y.masked_fill_(y > 4, 0.5)
    return y.sin(), torch.index_put(y, (m.picked,), x[:2])


@case(count=torch.zeros(1), state=torch.zeros(6), table=torch.zeros(4, 6))
def keeps_state_in_buffers(m, x):
    m.count.add_(1)
    m.state.mul_(0.9).add_(x.mean(0) * 0.1)
    m.table[1:3] = x[:2]
    return (x * m.count + m.state).tanh() + m.table.sum(), m.state * 2


@case(weight=torch.randn(6, 6))
def changes_a_weight(m, x):
    y = x @ m.weight
    m.weight[0] = y[0]
    z = x @ m.weight
    m.weight.zero_()
    return z, m.weight + x[0], y


@case(X.clone())
def changes_its_input(m, x):
    y = x.exp()
    x.add_(1)
    z = x * 2
    x[0] = y[1]
    return z, x.sin()


@case(
    torch.randn(2, 7, 6),
    lstm=nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True),
    gru=nn.GRU(10, 4, batch_first=True),
)
def recurrent_layers_with_several_outputs(m, x):
    y, (h, c) = m.lstm(x)
    z, g = m.gru(y)
    return y.relu(), h.exp(), c * 2, z[:, -1] + g[0]


@case(table=nn.Embedding(9, 6))
def several_outputs_and_indices(m, x):
    a, b, c = x.exp().split([2, 3, 1], dim=1)
    value, index = x.max(dim=1)
    _, best = x.topk(2, dim=1)
    ordered = x.sort(dim=1)
    variance, mean = torch.var_mean(x, dim=1)
    looked_up = m.table(index) + m.table(best).sum(1)
    return (
        a @ torch.ones(2, 3) + b,
        c * value[:, None],
        looked_up,
        ordered.values.cumsum(1),
        ordered.indices,
        variance,
        mean,
    )


@case(weight=torch.randn(4, 4, dtype=torch.complex64))
def complex_numbers(m, x):
    s = torch.fft.rfft(x)
    r = torch.view_as_real(s)
    product = s.conj() @ m.weight.conj().T
    flipped = torch.complex(r[..., 0], -r[..., 1])
    parts = s.real + s.imag, s.imag.neg().exp(), s.conj().imag.exp(), torch.view_as_complex(r * 2).angle()
    return torch.fft.irfft(flipped).abs(), (s.conj() * s).real, product, s.conj(), *parts


@case(torch.randn(2, 200), window=torch.hann_window(32))
def short_time_transforms(m, x):
    s = torch.stft(x, 32, 8, window=m.window, return_complex=True)
    return torch.istft(s * s.abs(), 32, 8, window=m.window, length=x.shape[-1])


@case()
def constants_and_masks(m, x):
    scale, even = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), torch.tensor([True, False] * 3)
    places = torch.arange(6)
    return torch.where(even, x * scale, x - places), (x > 0).sum(1), (x > scale).any(), places * 2


@case()
def numbers_and_sizes(m, x):
    n = x.shape[0]
    ones = torch.zeros(n).scatter_(0, torch.arange(2), 1.0)
    return x.sum() / n, x.exp() * float(n), torch.full((n, 2), n * 1.5) + x[:, :2], ones, x.new_ones(2, 3) * 2


@case(linear=nn.Linear(6, 6))
def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = m.linear(x)
        z = y @ y.T
    with torch.autocast("cpu", enabled=False):
        w = m.linear(x)
    return z.float() + 1, y.exp(), w


@case(linear=nn.Linear(6, 6))
def bodies_without_gradient_and_recomputed(m, x):
    with torch.no_grad():
        y = m.linear(x).exp()
    return y * checkpoint(lambda t: m.linear(t.sin()), x, use_reentrant=False)


@case(weight=torch.randn(6))
def windows_and_repeated_rows(m, x):
    frames = x.flatten().unfold(0, 6, 2) * m.weight
    h = x.exp()
    few = h.flatten().unfold(0, 8, 3)[1:3]  # windows that overlap, not all of them
    one, column = h[:1].expand(4, 6), h[:, :1].expand(4, 6)
    rows = h[:2].exp(), h[:2].sin(), h[1:3].cos()  # one slice read twice, and one that overlaps it
    return (
        frames.sum(1),
        x.expand(3, 4, 6)[:, :2].exp(),
        x[:, 1:] * x[:, :-1],
        few.sin(),
        few.cos(),
        one[:, :2].exp(),
        column.sin(),
        *rows,
    )


@case()
def other_dtypes(m, x):
    y = x.exp()
    bits = y.view(torch.int32)
    casts = y.to(torch.float16).exp(), y.double().sin(), y.to(torch.bfloat16).cos()
    return (
        (bits >> 8).float(),
        (bits + 1).view(torch.float32),
        y.view(torch.int16)[:, ::2] * 2,
        (y > 1) & (y < 2),
        *casts,
    )


@case()
def empty_tensors(m, x):
    nothing = x[:, :0].exp()
    return torch.cat([nothing, x.sin()], 1), nothing.sum(1), nothing


@case(torch.randn(2, 3, 9, 9), first=nn.Conv2d(3, 8, 3), second=nn.Conv2d(8, 4, 3))
def channels_last(m, x):
    y = m.first(x.to(memory_format=torch.channels_last))
    return m.second(y).relu_().mean((2, 3)), y.permute(0, 2, 3, 1).reshape(2, -1, 8).exp()


@case(
    torch.randn(2, 5, 8),
    attention=nn.MultiheadAttention(8, 2, batch_first=True),
    block=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
)
def attention(m, x):
    return m.attention(x, x, x)[0], m.block(x)


@case(own=nn.Parameter(torch.randn(3)))
def outputs_that_no_layer_makes(m, x):
    y = x.exp()
    return {"y": y, "number": 3, "none": None, "input": x, "weight": m.own, "views": (y[1:], y.T), "size": y.shape[0]}


@pytest.mark.parametrize("name", CASES)
def test_it_is_cut_anywhere(name: str) -> None:
    module, inputs = CASES[name]
    layers = segmented(module, inputs, 1)
    proven(module, layers, random_slots(layers, 3, 1), inputs)
    if len(layers) > 3:
        pairs = segmented(module, inputs, 2)
        proven(module, pairs, np.arange(len(pairs)) % 2, inputs)


def test_values_that_are_not_finite_are_equal_where_the_original_has_them() -> None:
    module = Call(lambda m, x: (torch.log(x), 1 / torch.relu(x), x.sqrt() + 1))
    segments = segmented(module, (X,), 1)
    run = proven(module, segments, random_slots(segments, 2, 0), (X,))
    assert run.original_outputs[0].isnan().any()
    assert run.original_outputs[1].isinf().any()


def test_decisions_on_data_are_refused() -> None:
    module = Call(lambda m, x: torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos() + 1, (x,)))
    segments = segmented(module, (X,), 1)
    with pytest.raises(WorkloadError, match=r"torch\.cond"):
        run_mapped(module, segments, [0] * len(segments), inputs=(X,))


def test_what_an_operator_says_comes_back_with_its_segment() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.ReLU())
    segments = segmented(module, (torch.zeros(3, dtype=torch.int64),), 1)
    with pytest.raises(DseError, match=r"slot 3 failed in segment 0 \(0\): IndexError: index out of range"):
        run_mapped(module, segments, [3, 1, 0], inputs=(torch.full((3,), 7),))
