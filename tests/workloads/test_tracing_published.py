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


@pytest.mark.parametrize(
    ("model", "tokens", "gmacs", "attention", "parameters"),
    [("bert", 128, 11.174, 0.302, 109_482_240), ("gpt2", 1024, 145.8, 19.3, 124_439_808)],
)
def test_language_models_reach_the_published_figures(model, tokens, gmacs, attention, parameters):
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    with torch.device("meta"):
        module = {
            "bert": lambda: transformers.BertModel(transformers.BertConfig()),
            "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)),
        }[model]()
        words = torch.zeros(1, tokens, dtype=torch.int64)
    graph = trace(module, words)
    digits = len(str(gmacs).partition(".")[2])  # as many as were published
    assert round(matrix_macs(graph) / 1e9, digits) == gmacs
    assert round(matrix_macs(graph, OperatorKind.ATTENTION) / 1e9, digits) == attention
    assert graph.parameters == parameters  # the head of GPT-2 is the embedding
    assert not graph.refused


def test_resnet50_of_transformers_is_the_one_of_the_catalogue():
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    config = transformers.ResNetConfig(num_labels=1000)
    module, inputs = on_meta(lambda: transformers.ResNetForImageClassification(config), (1, 3, 224, 224))
    graph = trace(module, *inputs)
    assert (round(matrix_macs(graph) / 1e9, 3), graph.parameters, graph.refused) == (4.089, 25_557_032, {})


def test_a_layer_of_llama_2_7b_is_that_of_the_whole():
    """Two layers of 32; the whole, 850.0 GMACs and 6,738,415,616 parameters, is traced by the benchmark."""
    transformers = pytest.importorskip("transformers", reason="transformers is a test extra")
    found = {}
    for layers in (1, 2):
        with torch.device("meta"):
            config = transformers.LlamaConfig(use_cache=False, num_hidden_layers=layers)
            graph = trace(transformers.LlamaForCausalLM(config), torch.zeros(1, 128, dtype=torch.int64))
        assert not graph.refused
        found[layers] = (matrix_macs(graph), matrix_macs(graph, OperatorKind.ATTENTION), graph.parameters)
    macs, attention, parameters = (one + 31 * (two - one) for one, two in zip(found[1], found[2], strict=True))
    assert (round(macs / 1e9, 1), round(attention / 1e9, 1), parameters) == (850.0, 4.3, 6_738_415_616)
