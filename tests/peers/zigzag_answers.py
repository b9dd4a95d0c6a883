"""Runs in ZigZag's own environment: what it says of ONNX files, one JSON object a line on stdout.

python zigzag_answers.py FOLDER FILE ...     FOLDER takes what ZigZag writes
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main(folder: str, files: list[str]) -> None:
    """Estimate each file on ZigZag's TPU-like accelerator with its own mapping file."""
    import onnx
    import zigzag
    from zigzag.api import get_hardware_performance_zigzag

    shipped = Path(zigzag.__file__).parent / "inputs"
    for file in files:
        said: dict[str, Any] = {"file": file}
        inferred = str(Path(folder) / Path(file).name)
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(file)), inferred)  # it asks for inferred models
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                energy_pj, cycles, results = get_hardware_performance_zigzag(
                    inferred,
                    str(shipped / "hardware" / "tpu_like.yaml"),
                    str(shipped / "mapping" / "tpu_like.yaml"),
                    dump_folder=str(Path(folder) / "out"),
                    loma_show_progress_bar=False,
                )
            layers = [found[0].layer for found in results[0][1]]
            macs = sum(int(layer.total_mac_count) for layer in layers)
            said |= {"macs": macs, "layers": len(layers), "cycles": cycles, "energy_pj": energy_pj}
        except Exception as error:  # whatever it dies of is its answer
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())
            said["crash"] = f"{type(error).__name__}: {text[:120]} ({Path(last.filename).name}:{last.lineno})"
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
