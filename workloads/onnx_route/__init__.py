"""ONNX models as torch modules, so that one tracer counts them: reader, module, and one function an operator.

A file becomes a module that runs its nodes with torch. Matrix work and parameters are then those of the file; where an
exporter wrote one operator of PyTorch as several of ONNX (GELU as Div, Erf, Add, Mul), so many layers are counted.
"""

from workloads.onnx_route.load import load_onnx

__all__ = ["load_onnx"]
