"""Traced figures of whole models against the published ones."""

import pytest
import torch

import workloads
from tests.workloads.tracing_help import matrix_macs, on_meta, torch_total, trace
from workloads import OperatorKind


def test_resnet50_reaches_the_published_figures():
    graph = workloads.load("resnet50", cache=False)
    assert graph.macs == 4_111_512_576  # FlopCountAnalysis.total()
    assert round(matrix_macs(graph) / 1e9, 3) == 4.089  # torchvision weight metadata
    assert graph.parameters == 25_557_032


@pytest.mark.parametrize(
    ("model", "gmacs", "attention", "parameters"),
    [("vit", 17.564, 0.715, 86_567_656), ("swin", 4.491, None, 28_288_354), ("convnext", 4.456, None, 28_589_128)],
)
def test_transformers_models_reach_the_published_figures(model, gmacs, attention, parameters):
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    sizes = {"num_labels": 1000, "image_size": 224}
    config, kind = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
        "swin": (transformers.SwinConfig, transformers.SwinForImageClassification),
        "convnext": (transformers.ConvNextConfig, transformers.ConvNextForImageClassification),
    }[model]
    module, inputs = on_meta(lambda: kind(config(**sizes)), (1, 3, 224, 224))
    graph = trace(module, *inputs)
    assert round(matrix_macs(graph) / 1e9, 3) == gmacs
    assert attention is None or round(matrix_macs(graph, OperatorKind.ATTENTION) / 1e9, 3) == attention
    assert graph.parameters == parameters
    assert not graph.refused
    assert matrix_macs(graph) == torch_total(module, inputs)


def test_language_models_reach_the_published_figures():
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    with torch.device("meta"):
        module = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))
        tokens = torch.zeros(1, 1024, dtype=torch.int64)
    graph = trace(module, tokens)
    assert round(matrix_macs(graph) / 1e9, 1) == 145.8
    assert round(matrix_macs(graph, OperatorKind.ATTENTION) / 1e9, 1) == 19.3
    assert graph.parameters == 124_439_808  # the head is the embedding
    assert not graph.refused
