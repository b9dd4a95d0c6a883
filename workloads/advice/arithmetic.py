"""What keeps the multipliers busy: convolutions, matrix products, transforms, steps in sequence, complex numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from workloads.advice.record import (
    LAUNCH_S,
    RIDGE_LOW,
    Advice,
    Figures,
    bound_of,
    byte_text,
    plural,
    ridge_words,
    scaled,
    share,
    share_text,
)
from workloads.graph import Layer, OperatorKind

ARITHMETIC_SHARE = 0.10
"""Share of the FLOPs from which a kind of work is worth an array of its own: below, even an infinite one gains less
than a tenth (Amdahl)."""

TRANSFORM_SHARE = 0.02
"""Share of the FLOPs that the transforms would take as dense products on a MAC array, from which a butterfly pays."""

SEQUENTIAL_STEPS = 64
"""Dependent steps from which a recurrence is a chain of small products, not one large one."""


def convolutions(f: Figures) -> Advice | None:
    """Convolutions: which operand to hold, line buffers, and how often a weight is used."""
    mask = f.of_kind(OperatorKind.CONV)
    if f.flops_share(mask) < ARITHMETIC_SHARE:
        return None
    layers, intensity = f.chosen(mask), f.intensity(mask)
    by_kernel: Counter[str] = Counter()
    for layer in layers:
        by_kernel[kernel_text(layer.shape)] += layer.flops
    kernel, most = by_kernel.most_common(1)[0]
    buffered = max(layers, key=lambda layer: line_buffer_values(layer.shape))
    width = 2 if f.train else 1
    buffer = width * line_buffer_values(buffered.shape)
    once, fetched = (sum(part) for part in zip(*(input_fetches(layer) for layer in layers), strict=True))
    held, text = _held_operand(f, mask)
    measure = f"{text}, {f.multiplier}"
    gain = _reuse_words(f, mask)
    if fetched > once:
        measure += (
            f"; line buffers of up to {byte_text(buffer)} at {8 * width} bit ({kernel_text(buffered.shape)} kernel on "
            f"{buffered.shape['in_channels']} channels, scanned along its longest side)"
        )
        gain += f"; line buffers read each input once: {byte_text(once)} in place of {byte_text(fetched)}"
    return Advice(
        subject="convolutions",
        bound=bound_of(intensity),
        where=f.where(mask, f.flops),
        evidence=f"{plural(len(layers), 'convolution')} do {share_text(f.flops_share(mask))} of the FLOPs and "
        f"{share_text(f.bytes_share(mask))} of the bytes, {intensity:.3g} op/B: {ridge_words(intensity)}; "
        f"{kernel} kernels do {share_text(share(most, f.flops[mask].sum()))} of it",
        measure=measure,
        gain=gain,
        severity=f.flops_share(mask),
        share_of="FLOPs",
        figures={
            "flops_share": f.flops_share(mask),
            "bytes_share": f.bytes_share(mask),
            "intensity": intensity,
            "weight_stationary_share": held,
            "line_buffer_bytes": float(buffer),
            "input_bytes_once": float(once),
            "input_bytes_fetched": float(fetched),
        },
    )


def matrix_products(f: Figures) -> Advice | None:
    """Matrix products outside of attention, but for those that streamed_weights speaks of."""
    mask = f.of_kind(OperatorKind.LINEAR, OperatorKind.MATMUL) & ~f.attention & (f.flops >= RIDGE_LOW * f.moved)
    if f.flops_share(mask) < ARITHMETIC_SHARE:
        return None
    intensity, layers = f.intensity(mask), f.chosen(mask)
    heaviest = max(layers, key=lambda layer: layer.flops)
    held, text = _held_operand(f, mask)
    weights = f.stored(mask)
    size = " x ".join(str(heaviest.shape[key]) for key in "mkn" if key in heaviest.shape)
    return Advice(
        subject="matrix products",
        bound=bound_of(intensity),
        where=f.where(mask, f.flops),
        evidence=f"{plural(len(layers), 'matrix product')} outside of attention do "
        f"{share_text(f.flops_share(mask))} of the FLOPs, {intensity:.3g} op/B: {ridge_words(intensity)}"
        + (f"; the largest is {size} (m x k x n)" if size else ""),
        measure=f"{text}, {f.multiplier}, fed by double-buffered tiles",
        gain="; ".join([_reuse_words(f, mask), *([f.narrower(weights)] if weights else [])]),
        severity=f.flops_share(mask),
        share_of="FLOPs",
        figures={
            "flops_share": f.flops_share(mask),
            "intensity": intensity,
            "weight_stationary_share": held,
            "weight_bytes": weights,
        },
    )


def attention_projections(f: Figures) -> Advice | None:
    """The products that make queries, keys, values and the output of attention: by their FLOPs or their weights."""
    mask = f.attention & f.of_kind(OperatorKind.LINEAR)
    weights = f.stored(mask)
    flops_share, weight_share = f.flops_share(mask), share(weights, f.graph.weight_bytes)
    if max(flops_share, weight_share) < ARITHMETIC_SHARE:
        return None
    intensity, saved = f.intensity(mask), _common_input_bytes(f, mask)
    _, array = _held_operand(f, mask)
    gains = [f"one product for all that read one input saves {byte_text(saved)} of reads"] if saved else []
    gains += [f.narrower(weights)] if weights else []
    return Advice(
        subject="attention projections",
        bound=bound_of(intensity),
        where=f.where(mask, f.flops),
        evidence=f"{plural(int(mask.sum()), 'projection')} to queries, keys, values and output do "
        f"{share_text(flops_share)} of the FLOPs with {share_text(weight_share)} of the weights "
        f"({byte_text(weights)}), {intensity:.3g} op/B: {ridge_words(intensity)}",
        measure=f"{array} for all projections, {f.multiplier}; scale and activation behind it",
        gain="; ".join(gains or [_reuse_words(f, mask)]),
        severity=max(flops_share, weight_share),
        share_of="FLOPs" if flops_share >= weight_share else "weights",
        figures={
            "flops_share": flops_share,
            "weight_share": weight_share,
            "intensity": intensity,
            "weight_bytes": weights,
            "input_bytes_saved": saved,
        },
    )


def attention_products(f: Figures) -> Advice | None:
    """The products of queries, keys and values among each other, fused or not: neither operand is a weight."""
    mask = f.attention & f.of_kind(OperatorKind.ATTENTION, OperatorKind.MATMUL)
    if f.flops_share(mask) < ARITHMETIC_SHARE:
        return None
    intensity, layers = f.intensity(mask), f.chosen(mask)
    once = float(f.moved[mask].sum())
    fetched = float(sum(2 * layer.macs * layer.float_bytes for layer in layers))
    gain = f"tiles on the chip read each operand once: {byte_text(once)} moved in place of {byte_text(fetched)}"
    return Advice(
        subject="attention products",
        bound=bound_of(intensity),
        where=f.where(mask, f.flops),
        evidence=f"{plural(len(layers), 'product')} of queries, keys and values do {share_text(f.flops_share(mask))} "
        f"of the FLOPs, {intensity:.3g} op/B: {ridge_words(intensity)}",
        measure=f"an output-stationary PE array with both operands from double-buffered tiles (neither is a weight), "
        f"{f.multiplier}; what lies between two products stays on the chip",
        gain=gain if fetched > once else "what lies between two products is neither written nor read",
        severity=f.flops_share(mask),
        share_of="FLOPs",
        figures={
            "flops_share": f.flops_share(mask),
            "intensity": intensity,
            "moved_bytes": once,
            "fetched_bytes": fetched,
        },
    )


def _common_input_bytes(f: Figures, mask: NDArray[np.bool_]) -> float:
    """Bytes of input that these layers read again after another of them has read the same tensors."""
    sources: dict[int, list[int]] = {}
    for producer, consumer in f.graph.edges.tolist():
        sources.setdefault(consumer, []).append(producer)
    seen: set[tuple[int, ...]] = set()
    saved = 0.0
    for index in np.flatnonzero(mask).tolist():
        read = tuple(sorted(sources.get(index, ())))
        saved += f.layers[index].input_bytes if read in seen else 0
        seen |= {read} if read else set()
    return saved


def transforms(f: Figures) -> Advice | None:
    """Fourier transforms: what they would cost on a MAC array, and the butterfly that spares it."""
    mask = f.of_kind(OperatorKind.FFT)
    layers = [layer for layer in f.chosen(mask) if layer.shape.get("transforms", 0)]
    many = sum(layer.shape["transforms"] for layer in layers)
    # a real transform of N points as a product with N/2 + 1 complex rows: 2 N (N + 2) operations
    dense = float(sum(layer.shape["transforms"] * 2 * n * (n + 2) for layer in layers if (n := layer.shape["length"])))
    fast = float(sum(layer.flops for layer in layers))
    rest = float(f.flops.sum()) - fast
    if not layers or share(dense, dense + rest) < TRANSFORM_SHARE:
        return None
    length = max(layer.shape["length"] for layer in layers)
    memory = 4.0 * (2 * length + length / 2)  # complex of 2 x 16 bit: two banks of points, half as many twiddles
    fast_share, dense_share = share(fast, rest + fast), share(dense, dense + rest)
    butterflies = length // 2 * max(math.ceil(math.log2(length)), 1)
    rate = f", {many / f.seconds:,.0f} a second of signal," if f.seconds else ""
    return Advice(
        subject="Fourier transforms",
        bound="compute",
        where=f.where(mask, f.flops),
        evidence=f"{plural(many, 'transform')} of up to {length} points{rate} are {share_text(fast_share)} of the "
        f"FLOPs as FFTs, but {share_text(dense_share)} as products on a MAC array",
        measure=f"an FFT block of {length} points ({butterflies:,} butterflies a transform, {byte_text(memory)} for "
        "two banks and twiddles at 16 bit), its window and hop fixed",
        gain=f"{scaled(dense - fast, 'FLOPs')} of {scaled(dense, 'FLOPs')} that the MAC array would need",
        severity=dense_share,
        share_of="FLOPs, the transforms run as products",
        figures={
            "transforms": float(many),
            "length": float(length),
            "flops_share": fast_share,
            "dense_flops": dense,
            "fast_flops": fast,
            "memory_bytes": memory,
        }
        | ({"transforms_per_second": many / f.seconds} if f.seconds else {}),
    )


def recurrences(f: Figures) -> Advice | None:
    """Recurrent layers: steps that wait for each other, each with all weights."""
    mask = f.of_kind(OperatorKind.RECURRENT)
    layers = f.chosen(mask)
    steps = sum(layer.shape.get("steps", 1) * layer.shape.get("layers", 1) for layer in layers)
    if steps < SEQUENTIAL_STEPS:
        return None
    weights = float(sum(layer.weight_bytes for layer in layers))
    reread = float(sum(layer.weight_bytes * layer.shape.get("steps", 1) for layer in layers))
    cells = sum(_state_values(layer) for layer in layers)
    two_ways = any(layer.shape.get("directions", 1) > 1 for layer in layers)
    waiting = steps * LAUNCH_S
    streaming = (
        "they run in both directions, so that a stream has to be cut into blocks"
        if two_ways
        else f"a stream needs only the state kept between calls, {byte_text(cells * f.float_bytes)}"
    )
    return Advice(
        subject="recurrences",
        bound="latency",
        where=f.where(mask, f.flops + 1.0),
        evidence=f"{plural(len(layers), 'recurrent layer')} take {steps:,} dependent steps, each with all of "
        f"{byte_text(weights)} of weights: {byte_text(reread)} if they are read again at each step",
        measure=f"recurrent weights held on the chip ({byte_text(weights / f.float_bytes)} at 8 bit), gates by look-up "
        f"table; {streaming}",
        gain=f"{byte_text(reread - weights)} of weight reads",
        severity=share(waiting, waiting + float(f.time_s[~mask].sum())),
        share_of="time, a kernel a step",
        figures={
            "steps": float(steps),
            "weight_bytes": weights,
            "weight_bytes_reread": reread,
            "state_bytes": cells * f.float_bytes,
        },
    )


def complex_products(f: Figures) -> Advice | None:
    """Complex convolutions and products that run as four real ones, and arithmetic on complex values."""
    fours = four_real_products(f)
    mask = np.zeros(len(f.layers), np.bool_)
    mask[fours] = True
    values = np.array([layer.dtype.startswith("complex") for layer in f.layers], np.bool_) & ~f.of_kind("copy", "fft")
    both = f.flops_share(mask | values)
    moved = f.bytes_share(mask | values)
    if max(both, moved) < ARITHMETIC_SHARE:
        return None
    product = float(f.flops[mask].sum())
    return Advice(
        subject="complex arithmetic",
        bound="compute" if product else "bandwidth",
        where=f.where(mask | values, f.flops + f.moved),
        evidence=(f"{len(fours) // 4} complex products run as {len(fours)} real ones, " if product else "")
        + f"complex numbers take {share_text(both)} of the FLOPs and {share_text(moved)} of the bytes",
        measure="real and imaginary parts interleaved in one word, a complex multiplier of three real products "
        "(ac, bd and (a + b)(c + d), c + d of the weights made beforehand), scale, shift and activation a part",
        gain=f"{scaled(product / 4, 'FLOPs')}: three real products in place of four"
        if product
        else f"one access in place of two for each of {byte_text(float(f.moved[values].sum()))}",
        severity=max(both, moved),
        share_of="FLOPs" if both >= moved else "bytes",
        figures={
            "flops_share": both,
            "bytes_share": moved,
            "real_products": float(len(fours)),
            "product_flops": product,
        },
    )


def four_real_products(f: Figures) -> list[int]:
    """Indices of layers that make up complex products: two weights of one shape, each applied to the same two inputs.

    Such layers are called in or under one module, have one shape, and use two weights twice each. Only what stands
    together in program order counts: four in a row, of their kind.
    """
    rows = [index for index, layer in enumerate(f.layers) if layer.kind in ("conv", "linear") and layer.weights]
    found: list[int] = []
    at = 0
    while at + 4 <= len(rows):
        four = [f.layers[index] for index in rows[at : at + 4]]
        weights = Counter(min(layer.weights) for layer in four)
        alike = len({(layer.kind, layer.output_shape, tuple(sorted(layer.shape.items()))) for layer in four}) == 1
        if alike and sorted(weights.values()) == [2, 2] and len({_parent(layer.module) for layer in four}) == 1:
            found += rows[at : at + 4]
            at += 4
        else:
            at += 1
    return found


def _parent(module: str) -> str:
    return module.rpartition(".")[0]


def kernel_text(shape: Mapping[str, int]) -> str:
    """Return "5x1", or "3-tap" of one axis: the kernel of a convolution."""
    sizes = [str(shape[f"kernel_{axis}"]) for axis in "dhw" if f"kernel_{axis}" in shape]
    return "x".join(sizes) if len(sizes) > 1 else f"{sizes[0]}-tap"


def line_buffer_values(shape: Mapping[str, int]) -> int:
    """Values of input that a convolution holds to read each only once, scanned in the order that needs the fewest.

    The kernel spans (taps - 1) x dilation positions an axis, each as long as the axes inside of it, and one more; all
    channels of them are held. A transposed convolution of stride s sees 1 in s taps of its kernel at a time.
    """
    axes = [axis for axis in "dhw" if f"kernel_{axis}" in shape]
    reach = {}
    for axis in axes:
        taps = shape[f"kernel_{axis}"]
        if shape.get("transposed"):
            taps = math.ceil(taps / shape[f"stride_{axis}"])
        reach[axis] = (taps - 1) * shape[f"dilation_{axis}"]
    if not any(reach.values()):
        return 0
    best = min(
        sum(
            reach[axis] * math.prod(shape[f"in_{inner}"] for inner in order[place + 1 :])
            for place, axis in enumerate(order)
        )
        for order in permutations(axes)
    )
    return (best + 1) * shape["in_channels"]


def input_fetches(layer: Layer) -> tuple[float, float]:
    """Bytes of a convolution's input: read once, and read for every tap of every output position."""
    shape = layer.shape
    axes = [axis for axis in "dhw" if f"kernel_{axis}" in shape]
    width = layer.float_bytes * shape["batch"] * shape["in_channels"]
    once = width * math.prod(shape[f"in_{axis}"] for axis in axes)
    moving = "in" if shape.get("transposed") else "out"  # a transposed one scatters: each input meets every tap
    taps = math.prod(shape[f"kernel_{axis}"] for axis in axes)
    return float(once), float(max(width * taps * math.prod(shape[f"{moving}_{axis}"] for axis in axes), once))


def _state_values(layer: Layer) -> int:
    states = 2 if "lstm" in layer.operator else 1  # hidden, and the cell of an LSTM
    shape = layer.shape
    return states * shape.get("hidden", 0) * shape.get("layers", 1) * shape.get("directions", 1) * shape.get("batch", 1)


def _held_operand(f: Figures, mask: NDArray[np.bool_]) -> tuple[float, str]:
    """Share of the FLOPs whose weights are the smaller operand, and the array that suits most of them."""
    small = np.array([layer.weight_bytes <= layer.input_bytes + layer.output_bytes for layer in f.layers], np.bool_)
    held = share(float(f.flops[mask & small].sum()), float(f.flops[mask].sum()))
    if held >= 0.5:
        return (
            held,
            f"a weight-stationary PE array (weights are the smaller operand in {share_text(held)} of this work)",
        )
    other = f"an output-stationary PE array (weights are the larger operand in {share_text(1 - held)} of this work)"
    return held, other


def _reuse_words(f: Figures, mask: NDArray[np.bool_]) -> str:
    """How often a weight is used once it is there."""
    weighted = [layer for layer in f.chosen(mask) if layer.weight_bytes]
    weights = float(sum(layer.weight_bytes for layer in weighted))
    naive = float(sum(layer.macs * layer.float_bytes for layer in weighted))
    if not weights:
        return "tiles on the chip read each operand once, not once a multiplication"
    return (
        f"a weight read once serves {naive / weights:,.0f} multiplications: {byte_text(weights)} of reads in place of "
        f"{byte_text(naive)}"
    )
