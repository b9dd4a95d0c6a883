from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("first", ["dse.Study", "dse.Timeline", "from dse.simulate import simulate", "dse.cost_table"])
def test_functions_that_share_a_name_with_their_file_stay_functions(first):
    code = f"import dse\n{first}\nassert all(callable(getattr(dse, name)) for name in dse.__all__), vars(dse)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_of_the_proxy_are_there_whatever_was_imported_before():
    code = (
        "import pkgutil, importlib, dse.proxy\n"
        "for part in pkgutil.iter_modules(dse.proxy.__path__):\n"
        "    importlib.import_module(f'dse.proxy.{part.name}')\n"
        "assert all(callable(getattr(dse.proxy, name)) for name in dse.proxy.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_and_the_cost_table_load_nothing_heavy():
    heavy = "torch fvcore pandas matplotlib plotly ortools numba pyarrow"
    code = (
        "import sys, dse, dse.cost_table, dse.simulate, dse.timeline, dse.detail, dse.proxy.roofline\n"
        f"print(*[name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
