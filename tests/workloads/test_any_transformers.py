"""Networks of Hugging Face transformers in small, against formulas by hand; what happens where one cannot be taken."""

import pytest
import torch

import workloads
from tests.workloads.tracing_help import matrix_macs, trace
from workloads import OperatorKind, WorkloadError

transformers = pytest.importorskip("transformers", reason="transformers is a test extra")

V, D, FF, LAYERS, HEADS, BATCH = 64, 32, 48, 2, 4, 2
SOURCE, TARGET = 8, 6  # tokens of an example
ROWS, OUT = BATCH * SOURCE, BATCH * TARGET
PROJECTIONS = 4 * D * D  # queries, keys, values, output
GROUPED = 2 * D * D + 2 * D * (D // 2)  # half as many heads of keys and values
SCORES = LAYERS * 2 * BATCH * SOURCE * SOURCE * D
CROSS = LAYERS * 2 * BATCH * (SOURCE**2 + TARGET**2 + SOURCE * TARGET) * D
DECODER = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "use_cache": False,
}
EXPERTS = DECODER | {"num_experts_per_tok": 2}
BART = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))}


def ids(*shape):
    return torch.zeros(shape, dtype=torch.int64)


def encoder_decoder_macs():
    encoder = ROWS * LAYERS * (PROJECTIONS + 2 * D * FF)
    decoder = OUT * (LAYERS * (PROJECTIONS + 2 * D * D + 2 * D * FF) + V * D) + ROWS * LAYERS * 2 * D * D
    return encoder + decoder + CROSS


def mamba_macs():
    inner, state, rank, kernel = 2 * D, 4, 2, 4
    token = D * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * state + inner * D
    convolution = BATCH * (SOURCE + kernel - 1) * inner * kernel  # padded on both sides, then cut
    return LAYERS * (ROWS * token + convolution) + ROWS * V * D


BOTH = {"input_ids": ids(BATCH, SOURCE), "decoder_input_ids": ids(BATCH, TARGET)}
ONE = {"input_ids": ids(BATCH, SOURCE)}
NETS = {  # model, configuration, inputs, MACs, of them attention
    "Llama": ("LlamaForCausalLM", DECODER, ONE, ROWS * (LAYERS * (GROUPED + 3 * D * FF) + V * D) + SCORES, SCORES),
    "GPT2": (
        "GPT2LMHeadModel",
        {"n_layer": LAYERS, "n_embd": D, "n_head": HEADS, "vocab_size": V, "use_cache": False},
        ONE,
        ROWS * (LAYERS * (PROJECTIONS + 8 * D * D) + V * D) + SCORES,
        SCORES,
    ),
    "Bert": (
        "BertModel",
        {key: value for key, value in DECODER.items() if key not in ("num_key_value_heads", "use_cache")},
        ONE | {"attention_mask": torch.ones(BATCH, SOURCE, dtype=torch.int64)},
        ROWS * LAYERS * (PROJECTIONS + 2 * D * FF) + BATCH * D * D + SCORES,
        SCORES,
    ),
    "Mixtral": (
        "MixtralForCausalLM",
        EXPERTS | {"num_local_experts": 4},
        ONE,
        ROWS * (LAYERS * (GROUPED + 2 * 3 * D * FF + 4 * D) + V * D) + SCORES,
        SCORES,
    ),
    "Qwen2Moe": (
        "Qwen2MoeForCausalLM",
        EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
        ONE,
        ROWS * (LAYERS * (GROUPED + 2 * 3 * D * 16 + 4 * D + 3 * D * 24 + D) + V * D) + SCORES,
        SCORES,
    ),
    "T5": (
        "T5ForConditionalGeneration",
        {
            "vocab_size": V,
            "d_model": D,
            "d_kv": 8,
            "d_ff": FF,
            "num_layers": LAYERS,
            "num_heads": 4,
            "use_cache": False,
        },
        BOTH,
        encoder_decoder_macs(),
        CROSS,
    ),
    "Bart": (
        "BartForConditionalGeneration",
        BART | {"vocab_size": V, "d_model": D, "encoder_ffn_dim": FF, "decoder_ffn_dim": FF, "use_cache": False},
        BOTH,
        encoder_decoder_macs(),
        CROSS,
    ),
    "Mamba": (
        "MambaForCausalLM",
        {
            "vocab_size": V,
            "hidden_size": D,
            "num_hidden_layers": LAYERS,
            "state_size": 4,
            "time_step_rank": 2,
            "use_cache": False,
        },
        ONE,
        mamba_macs(),
        0,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_transformers_is_counted_as_by_hand(name):
    kind, settings, inputs, macs, attention = NETS[name]
    module = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**settings))
    graph = trace(module, example_kwargs=inputs)
    assert not graph.refused
    assert matrix_macs(graph) == macs
    assert matrix_macs(graph, OperatorKind.ATTENTION) == attention
    assert graph.parameters == sum(p.numel() for p in module.parameters())


def test_a_language_model_keeps_its_cache_of_keys_and_values():
    """transformers returns the cache unless it is told not to; it is no work."""
    kind, settings, inputs, macs, _ = NETS["Llama"]
    module = getattr(transformers, kind)(transformers.LlamaConfig(**settings | {"use_cache": True}))
    assert matrix_macs(trace(module, example_kwargs=inputs)) == macs


def test_a_saved_network_of_transformers_is_the_same_graph(tmp_path):
    kind, settings, inputs, *_ = NETS["Llama"]
    module = getattr(transformers, kind)(transformers.LlamaConfig(**settings, tie_word_embeddings=True)).eval()
    direct = trace(module, example_kwargs=inputs, name="llama")
    torch.export.save(torch.export.export(module, (), inputs, strict=False), tmp_path / "llama.pt2")
    assert workloads.trace_file(tmp_path / "llama.pt2", cache=False) == direct
    assert direct.parameters == sum(p.numel() for p in module.parameters())


def test_an_export_that_fails_inside_transformers_says_where():
    kind, settings, *_ = NETS["Llama"]
    module = getattr(transformers, kind)(transformers.LlamaConfig(**settings))
    with pytest.raises(WorkloadError, match=r"cannot be traced: .*modeling_llama\.py:\d+ `.*in module model") as caught:
        trace(module, torch.zeros(BATCH, SOURCE, 3))
    assert "shapes and dtypes" in caught.value.hint
