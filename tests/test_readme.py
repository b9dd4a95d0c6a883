"""What the README and docs/mapping.md show works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from dse.cli.app import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAPPING = (ROOT / "docs" / "mapping.md").read_text(encoding="utf-8")
BLOCKS, MAPPING_BLOCKS = (re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL) for page in (README, MAPPING))
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS + MAPPING_BLOCKS
    if language == ""
    for line in block.splitlines()
    if line.startswith("dse ")
]


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = (block for language, block in BLOCKS if language == "python")
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimal" in done.stdout
    assert (tmp_path / "runs" / "smoke" / "report.html").exists()


def test_the_mapping_page_runs_and_names_every_solver_that_ships(tmp_path: Path) -> None:
    from solvers.mapping.solver import mapping_solvers

    (example,) = (block for language, block in MAPPING_BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "optimal" in done.stdout and "inf" in done.stdout
    ours = {name for name, solver in mapping_solvers().items() if solver.__module__.startswith("solvers.mapping.")}
    table = MAPPING.partition("## The solvers")[2].partition("\n## ")[0]
    assert ours <= set(re.findall(r"`(\w+)`", table))
    measured = re.findall(r"^\| `(mapping_\w+)` \|", MAPPING.partition("## Measured")[2], re.MULTILINE)
    assert set(measured) == {
        path.stem.removeprefix("bench_") for path in ROOT.glob("tests/benchmarks/bench_mapping_*.py")
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_spelt_right(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, options and values are those of the command line; nothing is run."""
    (tmp_path / "instances").mkdir()
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line)
    group = click.Context(cli, **cli.context_settings)  # commands keep the help option of the first context they see
    command = cli.get_command(group, name)
    assert command is not None, line
    command.make_context(name, arguments, parent=group)


def test_the_study_example_is_a_study(tmp_path: Path) -> None:
    from dse.study import Study

    (example,) = (block for language, block in BLOCKS if language == "yaml")
    path = tmp_path / "my_study.yaml"
    path.write_text(example)
    assert Study.load(path).name == yaml.safe_load(example)["name"]
