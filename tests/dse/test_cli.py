"""The command line itself: help, exit codes, messages instead of tracebacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from importlib import resources
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dse.cli.app import CommandFolder, cli

PROXY = cli.get_command(click.Context(cli), "proxy")
assert isinstance(PROXY, CommandFolder)
COMMANDS = [name for name in cli.list_commands(click.Context(cli)) if name != "proxy"]
COMMANDS += [f"proxy {name}" for name in PROXY.list_commands(click.Context(PROXY))]
DSE = [sys.executable, "-c", "from dse.cli import main; main()"]


def invoke(*arguments: str) -> Result:
    """Run `dse` in this process."""
    return CliRunner().invoke(cli, arguments, prog_name="dse")


def test_the_promised_commands_are_there() -> None:
    assert set(COMMANDS) >= {"run", "workloads", "trace", "chips", "systems", "map", "simulate", "report"}


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, flag: str) -> None:
    result = invoke(*name.split(), flag)
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"dse {name}" in result.stdout.partition("Example")[2]
    assert "--json" in result.stdout


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert invoke("--version").stdout.strip() == f"dse, version {version('chipfront')}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rum", "htdemucs"], "Did you mean 'run'?"),
        (["simulte"], "Did you mean 'simulate'?"),
        (["zzzz"], "One of: chips, compare, map"),
        (["run", "smoke", "--buget", "3"], "--budget"),
        (["run"], "STUDY"),
        (["run", "smoke", "--workers", "0"], "--workers"),
        (["map", "resnet18", "--package", "p", "--chips", "a", "--objective", "speed"], "latency"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2_and_names_what_would_be_right(arguments: list[str], expected: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stdout == ""


class Hinted(ValueError):
    """As the errors of our packages are."""

    def __init__(self) -> None:
        super().__init__("no such thing (try another)")
        self.message, self.hint = "no such thing", "try another"


def failing(error: BaseException) -> CommandFolder:
    """A group whose command `fail` raises `error`."""

    class Folder(CommandFolder):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return ["fail"]

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            @click.command("fail")
            def fail() -> None:
                raise error

            return fail

    return Folder("dse")


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (Hinted(), 1, "error: no such thing\nhint: try another\n"),
        (NotADirectoryError(20, "Not a directory", "/a/file/x"), 1, "error: /a/file/x: Not a directory\nhint: a part"),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            1,
            "error: /root/x: Permission denied\nhint: you may not",
        ),
        (KeyboardInterrupt(), 130, "interrupted: "),
    ],
    ids=["hint", "file in place of a folder", "permission", "Ctrl-C"],
)
def test_errors_of_the_input_are_messages(error: BaseException, code: int, stderr: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stderr.lstrip("\n").startswith(stderr)
    assert "Traceback" not in result.output


def test_our_own_mistakes_are_not_disguised() -> None:
    """An error that is not about the input keeps its traceback: it is a bug to be reported."""
    result = CliRunner().invoke(failing(ZeroDivisionError("ours")), ["fail"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_closed_pipe_is_quiet() -> None:
    """`dse --help | head -0` writes no traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*DSE, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_ctrl_c_during_a_run_says_what_was_kept(tmp_path: Path) -> None:
    """SIGINT ends a run with exit code 130, a summary on disk and no traceback; the same command goes on from there."""
    out, study = tmp_path / "run", tmp_path / "larger.yaml"
    smoke = (resources.files("dse") / "studies" / "smoke.yaml").read_text("utf-8")
    study.write_text(smoke.replace("max_chips: 3", "max_chips: 4").replace("[fp16]", "[fp16, fp32]"))  # takes a while
    command = [*DSE, "run", str(study), "--workers", "1", "--out", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    assert process.stderr is not None
    for _ in range(6000):
        if process.poll() is not None or any(path.stat().st_size for path in out.glob("results/*.jsonl")):
            break
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is not None:
        pytest.fail(f"the run ended before it could be stopped: {process.stderr.read()}")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "kept in" in stderr
    assert "Traceback" not in stderr
    assert (out / "summary.json").exists()
