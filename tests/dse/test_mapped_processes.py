"""Processes of a mapped model: messages without deadlock, and no silence, hang or orphan when something goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from dse.errors import DseError
from dse.mapped_model import Exchange, run_mapped
from dse.mapped_model.run import STEPS
from tests.dse.mapped_model_help import Call, segmented

CHAIN = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
INPUTS = (torch.randn(3, 4),)


def test_messages_arrive_whole_by_sender_and_tag_in_order(tmp_path: Path) -> None:
    with Exchange(tmp_path, 0) as zero, Exchange(tmp_path, 1) as one, Exchange(tmp_path, 7) as seven:
        zero.send(7, 1, b"first")
        one.send(7, 1, b"other")
        zero.send(7, 2, b"")
        zero.send(7, 1, bytearray(b"second"))
        zero.send(0, 5, b"to itself")
        assert seven.receive(0, 2, 10) == b""
        assert [bytes(seven.receive(sender, 1, 10)) for sender in (0, 1, 0)] == [b"first", b"other", b"second"]
        assert zero.receive(0, 5, 10) == b"to itself"
        assert (zero.sent_bytes, one.sent_bytes, seven.received_bytes) == (20, 5, 16)
        with pytest.raises(DseError, match=r"waited 0\.05 s for message 1 of process 0"):
            seven.receive(0, 1, 0.05)
        with pytest.raises(DseError, match="process 3 does not take"):
            zero.send(3, 0, b"nobody")


def test_everyone_may_send_before_anyone_receives(tmp_path: Path) -> None:
    """Far more bytes than a socket holds, all to all: no collective of members can block another."""
    members = [Exchange(tmp_path, number) for number in range(3)]
    payloads = [bytes([number]) * 3_000_000 for number in range(3)]
    met = threading.Barrier(3)
    found: dict[tuple[int, int], bytearray] = {}

    def take_part(me: int) -> None:
        others = [number for number in range(3) if number != me]
        for other in others:
            members[me].send(other, 0, payloads[me])
        met.wait(30)
        for other in others:
            found[me, other] = members[me].receive(other, 0, 30)

    threads = [threading.Thread(target=take_part, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {(me, other): payloads[other] for me in range(3) for other in range(3) if me != other}
    for member in members:
        member.close()


def test_a_process_that_is_killed_is_named() -> None:
    segments = segmented(CHAIN, INPUTS, 1)

    def kill(done: int, doing: str) -> None:
        if doing == STEPS[2]:
            (process,) = (child for child in multiprocessing.active_children() if child.name == "slot 5")
            assert process.pid
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    with pytest.raises(DseError, match=r"slot 5 .* ended with code -9"):
        run_mapped(CHAIN, segments, [0, 5, 0], inputs=INPUTS, on_progress=kill)
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("slot")]


def test_the_deadline_ends_all_processes() -> None:
    segments = segmented(CHAIN, INPUTS, 1)
    with pytest.raises(DseError, match=r"have not answered within 0\.001 s"):
        run_mapped(CHAIN, segments, [0, 1, 2], inputs=INPUTS, deadline_s=0.001)
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("slot")]


def test_outputs_that_differ_are_told() -> None:
    """Random numbers are not those of the original."""
    module = Call(lambda m, x: (x.exp() + torch.rand(4), x.relu()))
    segments = segmented(module, INPUTS, 1)
    run = run_mapped(module, segments, [0, 1] * (len(segments) // 2) + [0] * (len(segments) % 2), inputs=INPUTS)
    assert not run.outputs_equal
    assert not run.proven
    assert run.bytes_equal
    assert run.max_rel_error > 1e-3
    assert "outputs NOT EQUAL" in str(run)


ENDLESS = """
import signal
import torch
from torch import nn
import workloads
from dse import run_mapped

class Slow(nn.Module):
    def forward(self, x):
        for _ in range(400):
            x = (x @ x).tanh()
        return x

def tell(done, doing):
    if done == 2:
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in a shell's background
    inputs = (torch.randn(1024, 1024),)
    segments = workloads.build_segments(workloads.trace(Slow(), inputs, cache=False), segment_size=50)
    slots = [k % 2 for k in range(len(segments))]
    run_mapped(Slow(), segments, slots, inputs=inputs, on_progress=tell)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_killed_parent_leave_no_process(end: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "endless.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(end)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode != 0
    assert end == signal.SIGKILL or "KeyboardInterrupt" in errors
    until = time.monotonic() + 30
    while alive := [pid for pid in pids if running(pid)]:
        assert time.monotonic() < until, f"left behind: {alive}"
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
