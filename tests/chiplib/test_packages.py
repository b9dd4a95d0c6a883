"""Packages: slots against an independent geometry, routes against a breadth-first search of networkx."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiplib import ChipError, LinkType, Package, load_library, routes
from chiplib.package import Topology

LINK = LinkType(name="l", bandwidth_gb_s=100, latency_ns=5, pj_per_bit=0.5)
SHIPPED = list(load_library("chiplets").packages.values())


def grid(rows: int, columns: int, topology: Topology = "mesh", **fields: object) -> Package:
    base = {"kind": "substrate", "shape": "rectangle", "width_mm": 11 * columns + 5, "height_mm": 21 * rows + 5}
    size = {"slot_width_mm": 10, "slot_height_mm": 20, "spacing_mm": 1, "edge_mm": 1}
    return Package(
        **({"name": "p", "rows": rows, "columns": columns, "topology": topology, "link": LINK} | base | size | fields)  # type: ignore[arg-type]
    )


def disc(rows: int, columns: int, slot: float = 20, diameter: float = 300) -> Package:
    return grid(
        rows, columns, kind="wafer", shape="disc", width_mm=diameter, height_mm=diameter,
        slot_width_mm=slot, slot_height_mm=slot * 1.3,
    )  # fmt: skip


packages = st.one_of(
    st.builds(
        grid,
        st.integers(1, 5),
        st.integers(1, 5),
        st.sampled_from(["mesh", "torus", "ring", "star", "point_to_point"]),
    ),
    st.builds(disc, st.integers(1, 9), st.integers(1, 9), st.floats(15, 40)),
)


def neighbours(package: Package) -> "nx.Graph[int]":
    """Physical neighbours by the topology's definition, for mesh and torus."""
    places = {tuple(place): slot for slot, place in enumerate(package.slot_grid.tolist())}
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(places.values())
    for (row, column), slot in places.items():
        for other in ((row, column + 1), (row + 1, column)):
            if package.topology == "torus":
                other = (other[0] % package.rows, other[1] % package.columns)
            if other in places and places[other] != slot:
                graph.add_edge(slot, places[other])
    return graph


@settings(max_examples=60, deadline=None)
@given(package=packages)
def test_routes_are_paths_over_links(package: Package) -> None:
    r, s = routes(package), package.slots
    assert (r.hops == r.hops.T).all() and (np.diag(r.hops) == 0).all()
    assert (r.hops[:, :, None] + r.hops[None, :, :] >= r.hops[:, None, :]).all()  # triangle inequality
    assert not r.uses_link[np.arange(s), np.arange(s)].any()
    for p in range(s):
        for q in range(s):
            used = dict(r.links[r.uses_link[p, q]].tolist())
            assert len(used) == r.uses_link[p, q].sum() == r.hops[p, q]  # each slot is left at most once
            here = p
            for _ in range(r.hops[p, q]):
                here = used[here]
            assert here == q
    assert (r.hops[tuple(r.links.T)] == 1).all()
    assert r.uses_link.any(axis=(0, 1)).all()  # no link that nothing uses


@settings(max_examples=40, deadline=None)
@given(package=packages)
def test_grid_routes_are_shortest(package: Package) -> None:
    if package.topology in ("mesh", "torus"):
        lengths = dict(nx.all_pairs_shortest_path_length(neighbours(package)))
        hops = [[lengths[p][q] for q in range(package.slots)] for p in range(package.slots)]
        np.testing.assert_array_equal(routes(package).hops, hops)


def test_units_of_one_route() -> None:
    r = routes(grid(1, 3))
    assert r.latency_ms[0, 2] == pytest.approx(2 * 5e-6)  # 2 x 5 ns
    assert r.ms_per_byte[0, 2] == pytest.approx(1e3 / 100e9)  # 100 GB/s
    assert r.mj_per_byte[0, 2] == pytest.approx(2 * 8 * 0.5e-12 * 1e3)
    assert r.ms_per_byte[1, 1] == r.mj_per_byte[1, 1] == 0
    assert r.link_mm.tolist() == [1, 1, 1, 1]
    assert not r.hops.flags.writeable


@pytest.mark.parametrize(
    ("topology", "longest", "links"),
    [("mesh", 4, 24), ("torus", 2, 36), ("ring", 4, 18), ("star", 2, 16), ("point_to_point", 1, 72)],
)
def test_topologies_on_nine_slots(topology: Topology, longest: int, links: int) -> None:
    r = routes(grid(3, 3, topology))
    assert (r.hops.max(), len(r.links)) == (longest, links)
    if topology == "star":
        assert r.hops[4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]  # the hub is the middle slot


def test_slots_are_numbered_from_the_lower_left() -> None:
    package = grid(2, 3)
    assert package.slot_grid.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    # grid of 32 x 41 mm in the middle of 38 x 47 mm
    assert package.slot_centres[0].tolist() == [3 + 5, 3 + 10]
    assert package.slot_centres[5].tolist() == [38 - 8, 47 - 13]


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), slot=st.floats(5, 60))
def test_wafer_slots_are_those_whose_corners_lie_inside(rows: int, columns: int, slot: float) -> None:
    try:
        package = disc(rows, columns, slot)
    except ChipError:
        return  # not even one slot
    kept = {tuple(place) for place in package.slot_grid.tolist()}
    pitch_x, pitch_y = slot + 1, slot * 1.3 + 1
    for row in range(rows):
        for column in range(columns):
            x, y = (column - (columns - 1) / 2) * pitch_x, (row - (rows - 1) / 2) * pitch_y
            corners = [(x + i * slot / 2, y + j * slot * 1.3 / 2) for i in (-1, 1) for j in (-1, 1)]
            furthest = max(np.hypot(*corner) for corner in corners)
            if abs(furthest - 149) > 1e-6:
                assert ((row, column) in kept) == (furthest < 149)
    np.testing.assert_allclose(package.slot_centres.mean(axis=0), 0, atol=1e-9)  # about the disc's centre


@pytest.mark.parametrize("package", SHIPPED, ids=lambda package: package.name)
def test_shipped_packages_are_consistent(package: Package) -> None:
    assert package.source and package.link.source
    assert routes(package).hops.shape == (package.slots, package.slots)  # and every link within its reach
    half = np.array([package.slot_width_mm, package.slot_height_mm]) / 2
    centres = package.slot_centres
    if package.shape == "rectangle":
        assert (centres - half >= package.edge_mm - 1e-9).all()
        assert (centres + half <= np.array([package.width_mm, package.height_mm]) - package.edge_mm + 1e-9).all()
    else:
        assert (np.hypot(*(np.abs(centres) + half).T) <= package.width_mm / 2 - package.edge_mm).all()
    apart = np.abs(centres[:, None] - centres[None]) - 2 * half
    apart[np.arange(package.slots), np.arange(package.slots)] = np.inf
    assert (apart.max(axis=-1) >= package.spacing_mm - 1e-9).all()


def test_grid_larger_than_its_outline() -> None:
    with pytest.raises(ChipError, match="exceed its width_mm 40 by 4 mm") as error:
        grid(1, 4, width_mm=40, slot_width_mm=9.75)
    assert "at least 44" in error.value.hint


def test_disc_without_a_slot_and_oval_disc() -> None:
    with pytest.raises(ChipError, match="no slot"):
        disc(2, 2, slot=200)
    with pytest.raises(ChipError, match="300 x 200"):
        grid(2, 2, shape="disc", width_mm=300, height_mm=200)


def test_link_beyond_its_reach() -> None:
    short = replace(LINK, name="short", reach_mm=2)
    assert routes(grid(2, 2, link=short)).links.shape == (8, 2)
    with pytest.raises(ChipError, match=r"spans 4 mm, but short reaches 2 mm"):
        routes(grid(1, 2, link=short, spacing_mm=4, width_mm=40))
    with pytest.raises(ChipError, match="spans 12 mm"):  # a ring closes over the slot between its ends
        routes(grid(1, 3, "ring", link=short))


def test_torus_on_a_disc() -> None:
    with pytest.raises(ChipError, match="torus on a disc"):
        routes(replace(disc(4, 4), topology="torus"))
