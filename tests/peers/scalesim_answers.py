"""Runs in SCALE-Sim's own environment: what it says of each layer, one JSON object on stdout.

python scalesim_answers.py FOLDER SETTING.json     FOLDER takes its input files and reports (no traces)

SETTING holds rows, columns, dataflow (os, ws, is), sram_kb (input, weight, output), bandwidth (words a cycle for each
operand; 0: as much as it takes), and layers: lists of name, input height and width (padding included), kernel height
and width, channels, filters, stride.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = """[general]
run_name = run

[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = {input_kb}
FilterSramSzkB = {weight_kb}
OfmapSramSzkB = {output_kb}
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
Bandwidth = {bandwidth}
ReadRequestBuffer = 64
WriteRequestBuffer = 64

[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = {bandwidth}
IfmapSRAMBankNum = 1
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = {bandwidth}
FilterSRAMBankNum = 1
FilterSRAMBankPort = 2

[sparsity]
SparsitySupport = false

[run_presets]
InterfaceBandwidth = {mode}
UseRamulatorTrace = False
"""
# CALC: no stalls, and it says what bandwidth that takes; USER: operands come in at `bandwidth` before a layer starts


def main(folder: str, setting: str) -> None:
    """Run all layers of one setting."""
    from scalesim.scale_sim import scalesim

    home, asked = Path(folder), json.loads(Path(setting).read_text())
    home.mkdir(parents=True, exist_ok=True)
    input_kb, weight_kb, output_kb = asked["sram_kb"]
    words = {name: asked[name] for name in ("rows", "columns", "dataflow")}
    words |= {"bandwidth": asked["bandwidth"] or 10, "mode": "USER" if asked["bandwidth"] else "CALC"}
    config = home / "run.cfg"
    config.write_text(CONFIG.format(**words, input_kb=input_kb, weight_kb=weight_kb, output_kb=output_kb))
    topology, layout = home / "topology.csv", home / "layout.csv"
    header = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"
    topology.write_text(header + "".join(", ".join(map(str, layer)) + ",\n" for layer in asked["layers"]))
    layout.write_text(header + "".join(f"{layer[0]},{'1,' * 20}\n" for layer in asked["layers"]))  # it asks for one
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        simulator = scalesim(
            save_disk_space=True, verbose=False, config=str(config), topology=str(topology), layout=str(layout)
        )
        simulator.run_scale(top_path=str(home / "reports"))
    answer: dict[str, Any] = {"cpu_s": time.process_time() - started, "layers": []}
    for name, layer in zip(
        (layer[0] for layer in asked["layers"]), simulator.runner.single_layer_sim_object_list, strict=True
    ):
        with_prefetch, cycles, stalls, *_ = layer.get_compute_report_items()
        detail = layer.get_detail_report_items()
        sram, dram = detail[2:9:3], detail[11:18:3]
        answer["layers"].append(
            {
                "name": name,
                "cycles": cycles,
                "with_prefetch": with_prefetch,
                "stalls": stalls,
                "sram": [int(words) for words in sram],
                "dram": [int(words) for words in dram],
            }
        )
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
