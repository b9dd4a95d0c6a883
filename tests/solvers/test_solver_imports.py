"""Finding the solvers loads nothing heavy; every public name is there."""

import subprocess
import sys

import pytest

import solvers


def test_finding_the_solvers_loads_nothing_heavy():
    code = (
        "import sys, solvers; solvers.solve_mapping; solvers.solve_placement; solvers.mapping_solvers();"
        "print([m for m in ('numba', 'ortools', 'torch', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads():
    for name in solvers.__all__:
        assert getattr(solvers, name) is not None
        assert name in dir(solvers)
    with pytest.raises(AttributeError, match="no attribute 'solve_maping'"):
        _ = solvers.solve_maping
