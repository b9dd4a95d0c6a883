"""ChipLibrary: chips, links and packages by name, from the files that ship and from the user's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from chiplib.chip import ChipType, Precision
from chiplib.errors import ChipError
from chiplib.links import LinkType
from chiplib.package import Package
from chiplib.technology import DATA, memory_of
from chiplib.validation import Problem, describe, did_you_mean, read_yaml, validate

Entry = TypeVar("Entry", ChipType, LinkType, Package)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChipLibrary:
    """Chips, links and packages by name. Every library holds the links and packages that ship."""

    name: str
    chips: Mapping[str, ChipType]
    links: Mapping[str, LinkType] = field(default_factory=dict)
    packages: Mapping[str, Package] = field(default_factory=dict)
    folder: Path | None = None  # of its file, beside which measurements of its chips are kept

    def chip(self, name: str) -> ChipType:
        """Return the chip of this name. Raises ChipError, naming the nearest, where there is none."""
        return _find(self.chips, name, "chip", self.name)

    def link(self, name: str) -> LinkType:
        """Return the link of this name. Raises ChipError, naming the nearest, where there is none."""
        return _find(self.links, name, "link", self.name)

    def package(self, name: str) -> Package:
        """Return the package of this name. Raises ChipError, naming the nearest, where there is none."""
        return _find(self.packages, name, "package", self.name)

    def merge(self, other: ChipLibrary) -> ChipLibrary:
        """Return a library with the entries of both.

        Raises ChipError where both have a chip of one name, or links or packages of one name that differ.
        """
        twice = sorted(self.chips.keys() & other.chips.keys())
        for mine, theirs in ((self.links, other.links), (self.packages, other.packages)):
            twice += sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])
        if twice:
            raise ChipError(
                f"libraries {self.name!r} and {other.name!r} both define {', '.join(twice)}", "names must be unique"
            )
        return ChipLibrary(
            name=f"{self.name}+{other.name}",
            chips={**self.chips, **other.chips},
            links={**self.links, **other.links},
            packages={**self.packages, **other.packages},
            folder=self.folder if self.folder == other.folder else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFile:
    """What a library's YAML file holds: the owner's gpu_data.yaml, and optionally links and packages."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    chip_types: tuple[ChipType, ...] = ()
    links: tuple[LinkType, ...] = ()
    packages: tuple[Package, ...] = ()


def shipped_libraries() -> tuple[str, ...]:
    """Return the names that load_library takes without a path."""
    return tuple(sorted(path.stem for path in (DATA / "chips").glob("*.yaml")))


def load_library(name_or_path: str | Path) -> ChipLibrary:
    """Return a library that ships ("reference", "chiplets"), or that of a YAML file.

    The file has a list `chip_types` with name, peak_flops (a number, or a mapping by precision), peak_bw, mem_gb,
    area_mm2, width_mm, height_mm, tdp_w, and any other field of ChipType; and optionally lists `links` (fields of
    LinkType) and `packages` (fields of Package; `link` is a name). The links and packages that ship may be named too.

    Raises ChipError with every error of the file.
    """
    if isinstance(name_or_path, str) and name_or_path in shipped_libraries():
        return _load(DATA / "chips" / f"{name_or_path}.yaml", name_or_path)
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        known = shipped_libraries()
        raise ChipError(
            f"unknown chip library {str(name_or_path)!r}",
            f"{did_you_mean(str(name_or_path), known)}; or a path to a YAML file with a list chip_types",
        )
    return _read(path, path.stem)


@cache
def _load(path: Path, name: str) -> ChipLibrary:
    return _read(path, name)


@cache
def _shipped_links() -> Mapping[str, LinkType]:
    path = DATA / "links.yaml"
    return _by_name(validate(read_yaml(path), LibraryFile, str(path)).links)


@cache
def _shipped_packages() -> Mapping[str, Package]:
    path = DATA / "packages.yaml"
    problems: list[Problem] = []
    data = _prepare(read_yaml(path), _shipped_links(), problems)
    return _by_name(validate(data, LibraryFile, str(path), problems=problems).packages)


def _read(path: Path, name: str) -> ChipLibrary:
    links, packages = _shipped_links(), _shipped_packages()
    data = read_yaml(path)
    problems: list[Problem] = []
    if isinstance(data, dict) and not data.get("chip_types"):
        wrong = "empty" if "chip_types" in data else "missing"
        problems.append(Problem(f"chip_types: {wrong}", "a list of at least one chip"))
    content = validate(_prepare(data, links, problems), LibraryFile, str(path), problems=problems)
    for key, names in (("links", links), ("packages", packages)):
        taken = [entry.name for entry in getattr(content, key) if entry.name in names]
        if taken:
            raise ChipError(f"{path}: {key} {', '.join(taken)} ship already", "another name")
    return ChipLibrary(
        name=name,
        chips=_by_name(content.chip_types),
        links={**links, **_by_name(content.links)},
        packages={**packages, **_by_name(content.packages)},
        folder=path.parent,
    )


def _prepare(data: Any, shipped: Mapping[str, LinkType], problems: list[Problem]) -> Any:
    """Return a copy of `data` with its short forms written out; what only names can tell goes to `problems`.

    A peak_flops number holds in every precision; a source text is that of the whole chip; a package names its link.
    """
    data = copy.deepcopy(data)
    for key in ("chip_types", "links", "packages"):
        problems += _duplicates(data, key)
    for where, chip in _rows(data, "chip_types"):
        peak, source = chip.get("peak_flops"), chip.get("source")
        if isinstance(peak, int | float) and not isinstance(peak, bool):
            if not 0 < peak < inf:
                problems.append(Problem(f"{where}.peak_flops is {peak}", "a number above 0"))
                peak = 1.0  # said once, not once a precision
            chip["peak_flops"] = dict.fromkeys(map(str, Precision), peak)
        if isinstance(source, str):
            chip["source"] = {"*": source}
        if isinstance(memory := chip.get("memory_type"), str):
            try:
                memory_of(memory)
            except ChipError as error:
                problems.append(Problem(f"{where}.memory_type is {memory!r}", error.hint))
    links = {name: asdict(link) for name, link in shipped.items()}
    links |= {str(row.get("name")): row for _, row in _rows(data, "links")}
    for where, package in _rows(data, "packages"):
        if isinstance(link := package.get("link"), str):
            if link not in links:
                problems.append(Problem(f"{where}.link: no link is called {link!r}", did_you_mean(link, links)))
            package["link"] = links.get(link) or next(iter(links.values()))  # any: the rest is looked at too
    return data


def _rows(data: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each mapping in the list `key`, and its path in words."""
    rows = data.get(key) if isinstance(data, dict) else None
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, dict):
            yield describe([key, index], data), row


def _duplicates(data: Any, key: str) -> Iterator[Problem]:
    """Yield a problem for each name that the list `key` gives again."""
    first: dict[str, str] = {}
    for where, row in _rows(data, key):
        name = str(row.get("name"))
        if first.setdefault(name, where) != where:
            yield Problem(f"{where}: {first[name]} has the same name", "names must be unique")


def _find(entries: Mapping[str, Entry], name: str, what: str, library: str) -> Entry:
    if name not in entries:
        raise ChipError(f"unknown {what} {name!r} in library {library!r}", did_you_mean(name, entries))
    return entries[name]


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}
