"""For all tests: a cache of traced graphs that is the session's own, one thread for torch, and the measured data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; small tensors gain nothing from more threads


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache; what one has traced serves the next, also in other workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIPFRONT_CACHE", str(folder / "chipfront_cache"))
        yield


@pytest.fixture(scope="session")
def measured() -> Callable[[str], Path]:
    """Find a file of the measured data, which no checkout holds: under CHIPFRONT_DATA, or beside the checkout."""
    folder = Path(os.environ.get("CHIPFRONT_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def find(path: str) -> Path:
        if not (folder / path).is_file():
            pytest.skip(f"measured data not found: {folder / path} (set CHIPFRONT_DATA)")
        return folder / path

    return find
