"""An environment of its own for each peer, made once, and steps that say which of them failed."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


class PeerError(RuntimeError):
    """A step of installing or running a peer that failed."""


def environment(peer: str, folder: Path, *options: str) -> Path:
    """Return the Python of `peer`'s environment in `folder`, with what NAME_requirements.txt pins; `options` of pip."""
    name = peer.lower().replace("-", "")
    home, requirements = folder / f"{name}.venv", HERE / f"{name}_requirements.txt"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = home / "installed.txt"
    if not done.is_file() or done.read_text() != requirements.read_text():
        print(f"Installing {peer} into {home} (once, a minute)", file=sys.stderr, flush=True)
        try:
            venv.create(home, with_pip=True, clear=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PeerError(f"making its environment failed: {error}") from error
        pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *options]
        step(peer, "installing it", [*pip, "-r", requirements])
        done.write_text(requirements.read_text())
    return python


def step(peer: str, name: str, command: Sequence[str | Path]) -> str:
    """Run a command and return what it prints; raise PeerError with its last words where it fails."""
    print(f"{peer}: {name} ...", file=sys.stderr, flush=True)
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise PeerError(f"{name} failed (exit code {ran.returncode}): {' | '.join(ran.stderr.splitlines()[-3:])}")
    return ran.stdout
