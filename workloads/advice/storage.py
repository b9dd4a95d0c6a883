"""What has to lie in memory: weights, tables, live tensors, skip connections, score matrices."""

from __future__ import annotations

import numpy as np

from workloads.advice.record import SRAM_LEVELS, Advice, Figures, byte_text, share, share_text, sram_words
from workloads.graph import Layer, OperatorKind

ON_CHIP = SRAM_LEVELS[0][0]
"""Bytes that even the smallest accelerator holds: what is less is no bottleneck of storage."""

TABLE_SHARE = 0.10
"""Share of the weights from which a table that is only looked up is worth a place of its own."""

LONG_LIFE = 0.10
"""Share of the schedule from which a tensor that waits for its last reader is long-lived: a skip connection, not a
neighbour's residual."""

WAITING_SHARE = 0.10
"""Share of the peak of live tensors from which those that wait are worth compressing."""

TILE = 64
"""Queries and keys of a tile of streamed attention (FlashAttention, arXiv:2205.14135, uses 64 to 128)."""

WINDOW = 512
"""Keys that a query sees in windowed block-sparse attention (Longformer, arXiv:2004.05150)."""

SCORE_MOVES = 4
"""How often stored scores are moved: written and read before the softmax, and again after it."""


def weight_storage(f: Figures) -> Advice | None:
    """Parameters and buffers of an inference, against the memory of a chip."""
    if f.train:  # what lies beside them is more: see training_state
        return None
    stored = float(f.graph.weight_bytes)
    small = stored / f.float_bytes
    if small <= ON_CHIP:
        return None
    of_layers = np.array([layer.weight_bytes for layer in f.layers], np.float64)
    left = stored * f.narrow_bits / 8 / f.float_bytes
    before, after = sram_words(stored), sram_words(left)
    before, after = ("", f" (each {after})") if before == after else (f" ({before})", f" ({after})")
    return Advice(
        subject="weight storage",
        bound="weight storage",
        where=f.where(of_layers > 0, of_layers),
        evidence=f"{f.graph.parameters:,} parameters take {byte_text(stored)}{before}, "
        f"{byte_text(left)} at {f.narrow_bits} bit{after}",
        measure=f"weights of {f.narrow_bits} bit (train again with quantisation), in block RAM where they fit, else in "
        "banks of non-volatile memory or DRAM streamed ahead of their layer",
        gain=f.narrower(stored),
        severity=share(stored, f.peak.bytes),
        share_of="peak memory",
        figures={"weight_bytes": stored, "narrow_weight_bytes": left},
    )


def training_state(f: Figures) -> Advice | None:
    """What a training step keeps for each parameter: the weight, its gradient and the optimiser's state."""
    kept = float(f.peak.weight_bytes + f.peak.gradient_bytes + f.peak.optimizer_bytes)
    if not f.train or kept <= ON_CHIP or share(kept, f.peak.bytes) < WAITING_SHARE:
        return None
    state = float(f.peak.optimizer_bytes)
    used = np.array([layer.resident_bytes for layer in f.layers], np.float64)
    left = min(state / f.float_bytes, state)
    return Advice(
        subject="weights and optimiser state",
        bound="weight storage",
        where=f.where(used > 0, used),
        evidence=f"{f.graph.parameters:,} parameters take {byte_text(float(f.peak.weight_bytes))}, at the peak their "
        f"gradients {byte_text(float(f.peak.gradient_bytes))} and the optimiser's state {byte_text(state)}: "
        f"{byte_text(kept)} ({sram_words(kept)})",
        measure="optimiser state of 8 bit in blocks (arXiv:2110.02861), or state, gradients and weights divided among "
        "the chips (arXiv:1910.02054)",
        gain=f"8-bit state saves {byte_text(state - left)} of {byte_text(state)}; N chips hold {byte_text(kept)} / N "
        "each",
        severity=share(kept, f.peak.bytes),
        share_of="peak memory",
        figures={"kept_bytes": kept, "state_bytes": state},
    )


def tables(f: Figures) -> Advice | None:
    """Tables of which only a few rows are read; not those that another layer multiplies by."""
    mask = f.of_kind(OperatorKind.EMBEDDING)
    whole = {name for layer in f.chosen(~mask) for name in layer.weights}
    held = {name: end - first for layer in f.chosen(mask) for name, (first, end) in layer.weights.items()}
    size = float(sum(bytes_ for name, bytes_ in held.items() if name not in whole))
    if share(size, f.graph.weight_bytes) < TABLE_SHARE:
        return None
    read = float(sum(layer.weight_bytes for layer in f.chosen(mask) if not whole & set(layer.weights)))
    of_weights = share(size, f.graph.weight_bytes)
    return Advice(
        subject="embedding tables",
        bound="weight storage",
        where=f.where(mask, f.moved),
        evidence=f"tables hold {byte_text(size)}, {share_text(of_weights)} of the weights; an input reads "
        f"{byte_text(read)} of them",
        measure="tables in DRAM or non-volatile memory behind a small cache of rows, not in SRAM",
        gain=f"{byte_text(max(size - read, 0.0))} of memory on the chip",
        severity=of_weights,
        share_of="weights",
        figures={"table_bytes": size, "read_bytes": read},
    )


def live_tensors(f: Figures) -> Advice | None:
    """The largest sum of live tensors, and the working set of the widest layer.

    Of a training step only where it is not what the backward pass waits for: see waiting_tensors.
    """
    peak = float(f.live.max(initial=0.0))
    if peak / f.float_bytes <= ON_CHIP or (f.train and waiting_tensors(f) is not None):
        return None
    at = int(f.live.argmax())
    layer = f.layers[at]
    sets = np.array([each.input_bytes + each.output_bytes for each in f.layers], np.float64)
    widest = float(sets.max())
    banks = widest / max(f.float_bytes, 1.0)
    gain = f"with tiles only the {byte_text(widest)} of one layer and what waits"
    if f.float_bytes > 1.5:
        gain = f"8-bit activations leave {byte_text(peak / f.float_bytes)} of {byte_text(peak)}; {gain}"
    return Advice(
        subject="live tensors",
        bound="activation memory",
        where=(layer.module or "(model)",),
        evidence=f"{byte_text(peak)} are live at once as traced ({sram_words(peak)}), while layer {at + 1} of "
        f"{len(f.layers)} runs; the widest layer reads and writes {byte_text(widest)}",
        measure=f"ping-pong banks of SRAM, {byte_text(banks)} at 8 bit for input and output of the widest layer "
        f"({sram_words(banks)}), or fewer rows at a time",
        gain=gain,
        severity=share(peak, f.peak.bytes),
        share_of="peak memory",
        figures={"peak_bytes": peak, "layer": float(at), "widest_bytes": widest, "bank_bytes_8_bit": banks},
    )


def waiting_tensors(f: Figures) -> Advice | None:
    """Long-lived tensors: skip connections of an inference, saved activations of a training step."""
    index = np.arange(len(f.layers))
    life = f.last_reader - index
    train = f.train
    saved = f.forward & ~f.forward[f.last_reader] if train else np.ones(len(index), np.bool_)
    long = saved & (life > LONG_LIFE * len(index)) & (f.written > 0)
    # a tensor waits from the layer after its own to the one before its last reader
    change = np.zeros(len(index) + 1)
    np.add.at(change, index[long] + 1, f.written[long])
    np.subtract.at(change, f.last_reader[long], f.written[long])
    waits = np.cumsum(change)
    at, size, peak = int(waits.argmax()), float(waits.max()), float(f.live.max(initial=0.0))
    if peak <= ON_CHIP or share(size, peak) < WAITING_SHARE:
        return None
    waiting = long & (index < at) & (f.last_reader > at)
    longest = int(life[waiting].max())
    held = float((f.written * life)[waiting].sum())
    everything = float((f.written * np.maximum(life, 1)).sum())
    left = size * f.narrow_bits / 8 / f.float_bytes
    narrow = f"{byte_text(size - left)} of {byte_text(size)} by {f.narrow_bits} bit"
    measure, gain = "a second bank outside of the array's, or DRAM, for what waits", f"{byte_text(size)} of its banks"
    if train:
        measure = (
            f"recomputation before the backward pass (arXiv:1604.06174), or saved activations of {f.narrow_bits} bit"
        )
        gain = f"{narrow}; recomputed, up to {byte_text(size)} for {share_text(f.flops_share(f.forward))} more FLOPs"
    elif f.narrow_bits == 8:
        measure = "compression on the chip (8-bit mu-law, block floating point) of what waits, or a second bank outside"
        gain = narrow
    many = int(waiting.sum())
    many_words = f"{many:,} tensors, {byte_text(size)} in all, wait at once"
    if many == 1:
        many_words = f"1 tensor of {byte_text(size)} waits"
    return Advice(
        subject="saved activations" if train else "skip connections",
        bound="activation memory",
        where=f.where(waiting, f.written * life),
        evidence=f"{many_words} for up to {longest:,} of {len(index):,} layers, as much as "
        f"{share_text(share(size, peak))} of the peak of live tensors and {share_text(share(held, everything))} of all "
        "bytes x layers",
        measure=measure,
        gain=gain,
        severity=min(share(size, peak), 1.0),
        share_of="the peak of live tensors",
        figures={
            "tensors": float(waiting.sum()),
            "waiting_bytes": size,
            "peak_share": share(size, peak),
            "longest_layers": float(longest),
            "byte_layers_share": share(held, everything),
        },
    )


def attention_scores(f: Figures) -> Advice | None:
    """The score matrix of attention, which grows with the square of the sequence."""
    fused = f.of_kind(OperatorKind.ATTENTION)
    stored = f.of_kind(OperatorKind.SOFTMAX) & f.attention
    size = np.array([score_bytes(layer) for layer in f.layers], np.float64) * (fused | stored)
    largest = float(size.max(initial=0.0))
    if largest <= ON_CHIP:
        return None
    layer = f.layers[int(size.argmax())]
    keys = layer.shape.get("seq_kv", layer.shape.get("length", 1))
    width = layer.shape.get("head_dim", 0) + layer.shape.get("value_dim", 0)
    tile = float(layer.float_bytes * (TILE * TILE + 2 * TILE * (width or 2 * TILE)))
    moved = SCORE_MOVES * float(size.sum())
    everything = float(f.moved.sum()) + SCORE_MOVES * float(size[fused].sum())
    products = f.flops_share(fused | (f.attention & f.of_kind(OperatorKind.MATMUL)))
    sparse = (
        f"; block-sparse attention over {WINDOW} keys leaves {share_text(WINDOW / keys)} of its "
        f"{share_text(products)} of the FLOPs"
        if keys > WINDOW
        else ""
    )
    return Advice(
        subject="attention scores",
        bound="activation memory",
        where=f.where(size > 0, size),
        evidence=f"scores against {keys:,} keys take {byte_text(largest)} a layer ({sram_words(largest)}) and grow "
        f"with the square of the sequence; stored, they are moved {SCORE_MOVES} times: {byte_text(moved)}",
        measure=f"attention streamed over tiles of {TILE} x {TILE} on the chip ({byte_text(tile)}, running maximum "
        f"and sum, no scores stored){'; block-sparse attention, or a shorter sequence' if keys > WINDOW else ''}",
        gain=f"{byte_text(moved)} of traffic, {byte_text(largest - tile)} of memory{sparse}",
        severity=share(moved, everything),
        share_of="bytes, the scores stored",
        figures={
            "score_bytes": largest,
            "score_traffic_bytes": moved,
            "tile_bytes": tile,
            "keys": float(keys),
            "flops_share": products,
        },
    )


def score_bytes(layer: Layer) -> float:
    """Bytes of the scores of an attention kernel, or of what a softmax writes."""
    shape = layer.shape
    if layer.kind is OperatorKind.ATTENTION:
        return float(layer.float_bytes * shape["batch"] * shape["heads"] * shape["seq_q"] * shape["seq_kv"])
    return float(layer.output_bytes)
