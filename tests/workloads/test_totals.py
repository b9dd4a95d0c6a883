"""Totals by module and operator: nothing is lost, nothing counts twice, and the heavy parts are told apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads
from workloads.totals import group_by_module, heaviest_modules, totals_by_module, totals_by_operator

PATHS = st.lists(st.sampled_from("abc"), max_size=4).map(".".join)


@settings(max_examples=80, deadline=None)
@given(layers=st.lists(st.tuples(PATHS, st.integers(0, 100)), min_size=1, max_size=40), rows=st.integers(1, 12))
def test_every_layer_stands_in_one_row_of_its_own_module(layers: list[tuple[str, int]], rows: int) -> None:
    modules, weights = [path for path, _ in layers], np.array([weight for _, weight in layers], np.float64)
    groups = group_by_module(modules, weights, rows)
    assert len(groups) <= rows
    assert sorted(index for members in groups.values() for index in members) == list(range(len(layers)))
    for name, members in groups.items():
        prefix = name.removesuffix(" (itself)").removeprefix("(model)")
        for index in members:
            assert (
                modules[index] == prefix
                if name.endswith("(itself)")
                else f"{modules[index]}.".startswith(f"{prefix}." if prefix else "")
            )


def test_the_heavy_part_is_split_and_the_light_one_is_not() -> None:
    modules = ["light.0", "light.1", "heavy.0", "heavy.1", "heavy.2"]
    groups = group_by_module(modules, np.array([1.0, 1.0, 9.0, 9.0, 9.0]), rows=4)
    assert set(groups) == {"light", "heavy.0", "heavy.1", "heavy.2"}


def test_what_weighs_nothing_is_not_named() -> None:
    assert heaviest_modules(["a", "b", "c"], np.array([0.0, 5.0, 7.0])) == ("c", "b")


def test_repeated_modules_are_named_together() -> None:
    modules = [f"blocks.{block}.{part}" for block in range(4) for part in ("attention", "mlp")]
    weights = np.array([1.0, 5.0] * 4)
    assert heaviest_modules(modules, weights) == ("blocks.{0..3}.mlp", "blocks.{0..3}.attention")
    weights[3] = 6.0  # the second block's: heavier than its siblings, and then alone
    assert heaviest_modules(modules, weights)[0] == "blocks.1.mlp"


def test_totals_of_a_network_add_up() -> None:
    graph = workloads.load("resnet18")
    for totals in (totals_by_module(graph), totals_by_operator(graph)):
        assert sum(total.macs for total in totals) == graph.macs
        assert sum(total.flops for total in totals) == graph.flops
        assert sum(total.parameters for total in totals) == graph.parameters
        assert sum(total.bytes for total in totals) == sum(layer.bytes for layer in graph.layers)
        assert [total.flops for total in totals] == sorted((total.flops for total in totals), reverse=True)
