"""ONNX models as torch modules, so that one tracer counts them: reader, module, and one function an operator.

A file becomes a module that runs its nodes with torch. Its matrix work is that of the PyTorch model it was exported
from, and so are its parameters, as far as the file still holds them. Exporters change models, and what they wrote is
what is counted:

- Operators written out in others are counted as those: estimates of element-wise work may differ by a few percent
  (attention becomes two products and a softmax). Linear layers, group norms and GELU are put together again.
- A batch norm that follows a convolution is folded into it; of its two vectors at most one is left, as a bias.
- What no output reads is gone, and what depends on no input is computed beforehand. The newer exporter writes once what
  is computed twice from the same values.
- Weights of equal values, such as the zero biases of an untrained model, are stored once (PyTorch's older exporter) or
  left out (the newer one): export trained weights, or random ones, for exact parameters.
- An RNN is written out step by step by the newer exporter, the first without its state of zeros.
- The older exporter does not say which floating-point tensors were buffers: they count as parameters.
"""

from workloads.onnx_route.load import load_onnx

__all__ = ["load_onnx"]
