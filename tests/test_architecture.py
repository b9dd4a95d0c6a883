"""The house keeps its shape: floors, import budget, what the wheel holds."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("chiplib", "dse", "reports", "solvers", "workloads")
HEAVY = {
    "fvcore", "jinja2", "matplotlib", "moocore", "numba", "numpy", "onnx", "ortools", "pandas", "plotly", "pyarrow",
    "pydantic", "rich", "scipy", "sklearn", "torch",
}  # fmt: skip
"""What no import of a package and no `--help` may load. numpy is allowed to the packages, not to `--help`."""


def modules_after(code: str) -> tuple[set[str], float]:
    """Top-level modules that a fresh interpreter holds after `code`, and the CPU seconds that it took."""
    probe = f"{code}\nimport json, sys, time\nprint(json.dumps([sorted(sys.modules), time.process_time()]))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    names, cpu_s = json.loads(done.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in names}, cpu_s


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["map", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """`dse --help` answers at once: it imports no torch, pandas, matplotlib or the like."""
    loaded, cpu_s = modules_after(
        f"import dse.cli\ntry:\n    dse.cli.cli({arguments}, prog_name='dse')\nexcept SystemExit as end:\n"
        "    assert end.code == 0, end.code"
    )
    print(f"dse {' '.join(arguments)}: {cpu_s:.3f} s of CPU")
    assert not loaded & HEAVY


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    """Packages give their public names lazily, so that importing one costs next to nothing."""
    loaded, cpu_s = modules_after(f"import {package}")
    print(f"import {package}: {cpu_s:.3f} s of CPU")
    assert not loaded & (HEAVY - {"numpy"})


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package: str) -> None:
    """Every name that a package promises in `__all__` is there."""
    module = importlib.import_module(package)
    assert module.__all__
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_floors() -> None:
    """The layer contracts of pyproject.toml hold."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed: `make lint` checks the contracts")
    code = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_files_are_rooms_not_halls() -> None:
    """No file is over 600 lines."""
    halls = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert not halls


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel, built without a network; packages of tests lie beside ours and must stay out."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):  # a copy: building litters its source
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    (source / "tests" / "unit").mkdir(parents=True)
    (source / "tests" / "__init__.py").write_text("")
    (source / "tests" / "unit" / "__init__.py").write_text("")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(source)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("chipfront-*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_wheel_holds_just_the_five_packages(wheel: set[str]) -> None:
    """Nothing but our packages and their metadata: never `tests`."""
    tops = {name.partition("/")[0] for name in wheel}
    metadata = {top for top in tops if top.startswith("chipfront-") and top.endswith(".dist-info")}
    assert len(metadata) == 1
    assert tops - metadata == set(PACKAGES)


def test_wheel_holds_every_data_file(wheel: set[str]) -> None:
    """Every file of the packages is in the wheel: code, YAML, templates, py.typed."""
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - wheel == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= wheel


def test_console_script() -> None:
    """The command `dse` starts our command line."""
    (script,) = (point for point in entry_points(group="console_scripts") if point.name == "dse")
    assert script.value == "dse.cli:main"
