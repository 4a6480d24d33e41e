"""Checkpoints that are quantized already: recognised, and refused with what to do by whoever cannot use them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginepress.engines.quantized import Quantization, quantization_of, refused_by
from enginepress.errors import SourceError

# As published, shortened: what stands under quantization_config.
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
PLAIN_GPTQ = {**GPTQ, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
NVFP4 = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 16}}},
}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": []}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "producer": {"name": "modelopt"}}
HF_QUANT = {
    "producer": {"name": "modelopt"},
    "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16},
}


@pytest.mark.parametrize(
    ("value", "expected", "words"),
    [
        (GPTQ, Quantization("gptq", bits=4, group_size=128, desc_act=True, symmetric=True), "GPTQ 4 bits with desc_act"),
        (PLAIN_GPTQ, Quantization("gptq", bits=4, group_size=128, symmetric=True), "GPTQ 4 bits"),
        (AWQ, Quantization("awq", bits=4, group_size=128), "AWQ 4 bits"),
        (FBGEMM, Quantization("fbgemm_fp8", bits=8), "FBGEMM FP8"),
        (BLOCKS, Quantization("fp8", bits=8, blocks=True), "FP8 by blocks"),
        (
            NVFP4,
            Quantization("compressed-tensors", algorithm="nvfp4-pack-quantized", bits=4, group_size=16),
            "compressed-tensors nvfp4-pack-quantized 4 bits",
        ),
        (BNB, Quantization("bitsandbytes", bits=4), "bitsandbytes 4 bits"),
        ({"load_in_8bit": True}, Quantization("bitsandbytes", bits=8), "bitsandbytes 8 bits"),
        (MXFP4, Quantization("mxfp4", bits=4), "MXFP4"),
        (MODELOPT, Quantization("modelopt", algorithm="FP8", precision="fp8"), "ModelOpt FP8"),
        ({"quant_method": "HQQ", "bits": 3}, Quantization("hqq", bits=3), "'hqq'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_quantized_checkpoint_is_recognised(value: dict[str, Any], expected: Quantization, words: str) -> None:
    found = quantization_of({"quantization_config": value})
    assert found == expected
    assert found.describe() == words


def test_hf_quant_config_says_more_than_config_json() -> None:
    found = quantization_of({}, HF_QUANT)
    assert found == Quantization("modelopt", algorithm="NVFP4", group_size=16, kv_cache="fp8", precision="nvfp4")


def test_a_checkpoint_that_is_not_quantized_is_none() -> None:
    assert quantization_of({"architectures": ["LlamaForCausalLM"], "quantization_config": None}) is None


@pytest.mark.parametrize(
    ("config", "other", "says"),
    [
        ({"quantization_config": "awq"}, None, "'awq' where an object is needed"),
        ({"quantization_config": {"bits": 4}}, None, "'quant_method' is None"),
        ({"quantization_config": {"quant_method": "modelopt"}}, None, "no 'quant_algo'"),
        ({}, {"producer": {}}, "'quantization' is None"),
        ({}, {"quantization": {"quant_algo": 8}}, "texts are needed"),
    ],
)
def test_a_quantization_that_cannot_be_read_is_refused(config: dict[str, Any], other: dict[str, Any] | None, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        quantization_of(config, other)


@given(
    st.dictionaries(
        st.sampled_from(sorted({*GPTQ, *BLOCKS, *NVFP4, *MODELOPT, "w_bit", "load_in_4bit"})),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(max_size=5)
            | st.sampled_from(["gptq", "awq", "modelopt", "compressed-tensors"]),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=5,
        ),
    )
)
def test_whatever_stands_there_is_read_or_refused_by_name(value: dict[str, Any]) -> None:
    try:
        found = quantization_of({"quantization_config": value})
    except SourceError as error:
        assert "quantization_config" in str(error)  # noqa: PT017  (most values raise nothing)
    else:
        assert found is not None
        assert found.describe()


REFUSED = [
    (GPTQ, "tensorrt_llm", "no kernel for columns in another order", "desc_act: false"),
    ({**PLAIN_GPTQ, "bits": 8}, "tensorrt_llm", "read every weight as 4 bits ('bits' is 8)", "builder 'vllm'"),
    ({**PLAIN_GPTQ, "bits": 3}, "tensorrt_llm", "GPTQ 3 bits", "4 bits"),
    ({"quant_method": "gptq", "group_size": 128}, "tensorrt_llm", "does not say how many 'bits'", "4 bits"),
    ({**PLAIN_GPTQ, "group_size": -1}, "tensorrt_llm", "groups of 128 and 64 weights ('group_size' is -1)", "128 or 64"),
    ({**PLAIN_GPTQ, "sym": False}, "tensorrt_llm", "it is not symmetric ('sym' is false)", "sym: true"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "tensorrt_llm", "does not say 'sym'", "vllm"),
    ({**PLAIN_GPTQ, "checkpoint_format": "gptq_v2"}, "tensorrt_llm", "do not know the layout 'gptq_v2'", "vllm"),
    ({**AWQ, "bits": 8}, "tensorrt_llm", "'bits' is 8", "vllm"),
    ({**AWQ, "group_size": 32}, "tensorrt_llm", "'group_size' is 32", "128 or 64"),
    ({**AWQ, "version": "GEMV"}, "tensorrt_llm", "do not know the layout 'gemv'", "vllm"),
    (BLOCKS, "tensorrt_llm", "FP8 by blocks", "llmapi"),
    (NVFP4, "tensorrt_llm", "compressed-tensors", "llmapi"),
    (BNB, "tensorrt_llm", "bitsandbytes 4 bits", "vllm"),
    (MODELOPT, "tensorrt_llm", "ModelOpt FP8", "llmapi"),
    (GPTQ, "llmapi", "GPTQ 4 bits with desc_act", "vllm"),
    (BNB, "llmapi", "bitsandbytes", "vllm"),
    (AWQ, "onnxruntime", "AWQ 4 bits", "made from"),
]


@pytest.mark.parametrize(("value", "builder", "says", "fix"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_builder_that_cannot_use_it_says_why_and_what_to_do(value: dict[str, Any], builder: str, says: str, fix: str) -> None:
    quantization = quantization_of({"quantization_config": value})
    assert quantization is not None
    refusal = refused_by(quantization, builder)
    assert refusal is not None
    assert says in refusal[0]
    assert fix in refusal[1]


@pytest.mark.parametrize(
    ("value", "builder"),
    [
        (PLAIN_GPTQ, "tensorrt_llm"),
        ({**PLAIN_GPTQ, "group_size": 64, "checkpoint_format": "gptq"}, "tensorrt_llm"),
        (AWQ, "tensorrt_llm"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, "tensorrt_llm"),
        ({**PLAIN_GPTQ, "bits": 8}, "vllm"),
        (FBGEMM, "tensorrt_llm"),
        (MODELOPT, "llmapi"),
        (BLOCKS, "llmapi"),
        (MXFP4, "llmapi"),
        (GPTQ, "vllm"),
        (BNB, "vllm"),
    ],
)
def test_a_builder_that_can_use_it_does(value: dict[str, Any], builder: str) -> None:
    quantization = quantization_of({"quantization_config": value})
    assert quantization is not None
    assert refused_by(quantization, builder) is None


def test_nothing_is_quantized_twice() -> None:
    quantization = quantization_of({"quantization_config": MODELOPT})
    assert quantization is not None
    refusal = refused_by(quantization, "llmapi", precision="nvfp4")
    assert refusal is not None
    assert "quantized already (ModelOpt FP8), and the recipe asks for nvfp4" in refusal[0]
    assert "set engine.precision to fp8" in refusal[1]
    assert refused_by(quantization, "llmapi", precision="fp8") is None
    assert refused_by(quantization, "llmapi", precision="bfloat16") is None
