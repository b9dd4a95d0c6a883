"""The command group: finds its commands in a folder, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 the input is wrong, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import pkgutil
from pathlib import Path
from typing import Any, NoReturn

import click

COMMANDS = "dse.cli.commands"


class InputError(click.ClickException):
    """What the user gave is wrong: shown as `error:` and `hint:` on stderr, exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Print the message and the hint on stderr."""
        click.echo(f"error: {self.message}", file=file, err=True)
        if self.hint:
            click.echo(f"hint: {self.hint}", file=file, err=True)


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C; the message says what was kept."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        """Print the message on stderr."""
        click.echo(f"\ninterrupted: {self.message}", file=file, err=True)


class CommandFolder(click.Group):
    """A group whose commands are the modules of one package, each with a click command named `command`.

    A package in it is a group of its own, `command` being another CommandFolder.
    """

    def __init__(self, *args: Any, package: str = COMMANDS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.package = package
        self.folder = Path(__file__).parent.joinpath(*package.split(".")[2:])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(module.name for module in pkgutil.iter_modules([str(self.folder)]))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of that name and return its command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{self.package}.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.package}.{cmd_name}: `command` is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; the nearest name is suggested where there is none."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"One of: {', '.join(self.list_commands(ctx))}."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what carries a hint, and what the file system refuses, becomes a message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("stopped before anything was written") from None
        except Exception as error:
            _report(error)
            raise


def _report(error: Exception) -> None:
    """Raise InputError if this is an error of the input; return if it is one of ours."""
    if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
        return
    if hasattr(error, "hint"):
        raise InputError(str(getattr(error, "message", error)), str(error.hint)) from error
    if isinstance(error, OSError) and error.errno != errno.EPIPE and error.filename is not None:
        _refuse_file(error)


def _refuse_file(error: OSError) -> NoReturn:
    hints = {
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "a part of this path is a file where a folder is needed",
        errno.EEXIST: "this path is a file where a folder is needed; name another",
        errno.EISDIR: "this path is a folder where a file is needed",
        errno.EACCES: "you may not write (or read) here; name another path",
        errno.EROFS: "this file system is read-only; name another path",
        errno.ENOSPC: "free some space, or name a path on another disk",
    }
    raise InputError(f"{error.filename}: {error.strerror}", hints.get(error.errno or 0, "")) from error


@click.group(cls=CommandFolder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="chipfront", prog_name="dse")
def cli() -> None:
    """Design-space exploration of multi-chip systems for PyTorch models.

    Trace a model, map it on chips, simulate it, sweep over systems, and read the Pareto front in a report.

    \b
    Start here:
      dse run htdemucs          sweep a study that ships; the report is in runs/htdemucs/report.html
      dse workloads             the models of the catalogue
      dse chips                 the chips of the library
    """
