"""For all tests: a cache of traced graphs that is the session's own, and one thread for torch."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; small tensors gain nothing from more threads


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache; what one has traced serves the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIPFRONT_CACHE", str(tmp_path_factory.mktemp("chipfront_cache")))
        yield
