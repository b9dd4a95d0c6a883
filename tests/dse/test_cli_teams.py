"""`dse map --teams` and `--fine-split`: segments over several slots, proven in processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dse.cli.app import cli

SYSTEM = ["--package", "interposer_2x2", "--chips", "big_core,big_core,big_core,big_core", "--model", "roofline"]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(256, 4096), nn.Linear(4096, 256)
        self.attention = nn.MultiheadAttention(256, 8, batch_first=True)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.down(self.up(x).relu())

def net():
    return Net(), (torch.randn(1, 512, 256),)
"""


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)


def dse(command: str, *options: str) -> Result:
    return CliRunner().invoke(cli, [command, *options], prog_name="dse")


def mapped(*options: str) -> dict[str, Any]:
    result = dse("map", "shared_nets:net", *SYSTEM, "--segment-size", "2", "--deadline", "2", *options, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_teams_are_modes_of_the_solver_and_the_split_model_is_proven() -> None:
    alone, answer = mapped(), mapped("--teams", "2,4", "--prove")
    assert answer["objective"] < alone["objective"]
    rows = answer["segments"]
    split = [row for row in rows if row["way"] != "whole"]
    assert split
    assert all(len(row["slots"]) in (2, 4) and row["largest_share"] < 1 for row in split)
    assert all(row["slots"] == [row["slot"]] and not row["team_bytes"] for row in rows if row["way"] == "whole")
    assert all(row["slots"] == [row["slot"]] for row in alone["segments"])
    proof = answer["proof"]
    assert proof["outputs_equal"]
    assert proof["bytes_equal"]
    assert proof["slots"] == sorted({slot for row in rows for slot in row["slots"]})
    sent = sum(row["team_bytes"] for row in rows) * 2  # at fp16, the proof at fp32
    assert proof["collective_sent_bytes"] == proof["collective_charged_bytes"] == sent


def test_a_table_shows_who_shares_a_segment_and_how() -> None:
    result = dse("map", "shared_nets:net", *SYSTEM, "--teams", "2", "--segment-size", "2", "--deadline", "2")
    assert result.exit_code == 0, result.output
    assert "team MB" in result.stdout
    assert "0+1" in result.stdout or "2+3" in result.stdout


def test_replicas_shorten_the_period() -> None:
    options = ("--objective", "throughput", "--solver", "cp_sat")
    alone, answer = mapped(*options), mapped(*options, "--teams", "2", "--replicate", "--prove")
    assert answer["objective"] <= alone["objective"]
    assert answer["proof"]["bytes_equal"]


def test_fine_split_gives_the_dictionary_of_the_specification() -> None:
    answer = mapped("--fine-split", "--fine-traffic", "0", "--fine-attention", "0.01", "--solver", "greedy", "--prove")
    fine = answer["fine_split"]
    assert {"mapping", "per_slot_time", "total_latency_ms", "comm_ms", "segments", "rewire_meta"} <= fine.keys()
    assert fine["mapping"] == [part["slot"] for part in fine["segments"]]
    assert [part["id"] for part in fine["segments"]] == sorted(part["id"] for part in fine["segments"])
    used = [tried for tried in fine["tried"] if tried["use_fine"]]
    assert used
    assert all(tried["cost_fine"] < tried["cost_coarse"] for tried in used)
    parts = [part for part in fine["segments"] if part["part"] is not None]
    assert {part["id"] for part in parts} == {tried["segment"] for tried in used}
    assert all(part["can_split_fine"] and part["parts"] == 2 for part in parts)
    assert fine["total_latency_ms"] < fine["baseline_latency_ms"]
    assert fine["total_latency_ms"] == answer["latency_ms"]
    for entry in fine["rewire_meta"]:
        assert np.array_equal(np.argsort(entry["perm"]), entry["inv_perm"])
    assert answer["proof"]["outputs_equal"]
    assert answer["proof"]["bytes_equal"]
    nothing = mapped("--fine-split", "--fine-traffic", "0", "--fine-attention", "0.01", "--fine-margin", "1e6")
    assert not any(tried["use_fine"] for tried in nothing["fine_split"]["tried"])
    assert set(nothing["assignment"]) <= set(range(4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--teams", "two"), "such as 2,4"),
        (("--teams", "2,3"), "2, 3"),
        (("--teams", "8"), "4 slots have chips"),
        (("--teams", "2", "--fine-split"), "--fine-split"),
    ],
)
def test_wrong_teams_are_refused(options: tuple[str, ...], said: str) -> None:
    result = dse("map", "shared_nets:net", *SYSTEM, *options)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_solvers_are_compared_on_teams() -> None:
    result = dse(
        *("compare", "--workload", "shared_nets:net", "--system", f"interposer_2x2:{SYSTEM[3]}", "--model", "roofline"),
        *("--teams", "2", "--segment-size", "2", "--solver", "greedy", "--solver", "local_search", "--deadline", "2"),
        *("--assignments", "--json"),
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert any(isinstance(where, list) for row in rows for where in row["assignment"].values())


def test_the_simulation_of_teams_agrees_with_the_mapping_and_its_timeline_shows_every_member(tmp_path: Path) -> None:
    answer = mapped("--teams", "2,4", "--html", "teams.html")
    simulation = answer["simulation"]
    assert simulation["latency_without_contention_ms"] == pytest.approx(answer["latency_ms"], rel=1e-12)
    assert simulation["latency_ms"] >= simulation["latency_without_contention_ms"]
    rows = {row["id"]: row["slots"] for row in answer["segments"]}
    ran: dict[int, list[int]] = {}
    for segment, slot, _, start, end in simulation["timeline"]["compute"]:
        ran.setdefault(segment, []).append(slot)
        assert end - start == pytest.approx(answer["segments"][segment]["latency_ms"])
    assert ran == rows
    page = (tmp_path / "teams.html").read_text()
    assert "0 + 1 + 2 + 3" in page and "<svg" in page
    placed = dse("simulate", "shared_nets:net", *SYSTEM, "--segment-size", "2", "--teams", "2", "--replicate",
                 "--objective", "throughput", "--inputs", "8", "--deadline", "2", "--json")  # fmt: skip
    assert placed.exit_code == 0, placed.output
    told = json.loads(placed.stdout)
    assert told["simulation"]["period_ms"] >= told["objective"] * (1 - 1e-9)


def test_a_free_order_is_simulated_as_it_was_mapped() -> None:
    options = ("--free-order", "--solver", "heft")
    answer = mapped(*options)
    assert sorted(answer["order"]) == list(range(len(answer["segments"])))
    assert answer["simulation"]["latency_without_contention_ms"] == pytest.approx(answer["latency_ms"], rel=1e-12)
    refused = dse("map", "shared_nets:net", *SYSTEM, *options, "--objective", "throughput")
    assert refused.exit_code == 1
    assert "free_order does not go with the pipelined regime" in refused.stderr


def test_teams_have_intervals_where_the_model_gives_them() -> None:
    learned = [*SYSTEM[:-1], "learned"]
    result = dse("map", "shared_nets:net", *learned, "--segment-size", "2", "--deadline", "2", "--teams", "4", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    low, high = answer["latency_interval_ms"]
    assert 0 < low < answer["latency_ms"] < high
    shared = [row for row in answer["segments"] if len(row["slots"]) > 1]
    assert shared
    for row in shared:
        assert 0 < row["latency_low_ms"] < row["latency_ms"] < row["latency_high_ms"]


def test_an_option_of_fine_split_is_not_ignored_without_it() -> None:
    result = CliRunner().invoke(cli, ["map", "resnet18", *SYSTEM, "--fine-groups", "4"])
    assert result.exit_code == 2
    assert "--fine-groups goes with --fine-split" in result.output
