"""What the README shows works as it stands there."""

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

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
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


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_spelt_right(line: str) -> None:
    """Names, options and values are those of the command line; nothing is run."""
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
