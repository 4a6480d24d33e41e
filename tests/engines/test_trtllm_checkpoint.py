"""The checker for TensorRT-LLM checkpoints. That it takes what ModelOpt makes is shown in tests/modelopt."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.engines.trtllm_checkpoint import check_checkpoint, require_checkpoint
from enginepress.engines.trtllm_layout import read_shape, tensors_of_rank
from enginepress.errors import BuildError
from enginepress.sources.safetensors_header import DTYPE_BITS

Tensors = dict[str, tuple[str, tuple[int, ...]]]

LLAMA: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "dtype": "float16",
    "vocab_size": 10,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_size": 64,
    "intermediate_size": 512,
    "hidden_act": "silu",
    "rotary_base": 10000.0,
    "use_parallel_embedding": True,
    "embedding_sharding_dim": 0,
}
QWEN3 = {**LLAMA, "architecture": "Qwen3ForCausalLM", "qwen_type": "qwen3", "attn_bias": False}
QWEN2 = {**LLAMA, "architecture": "Qwen2ForCausalLM", "qwen_type": "qwen2", "attn_bias": True}
BIASED = {**LLAMA, "attn_bias": True, "mlp_bias": True}
MIXTRAL = {**LLAMA, "architecture": "MixtralForCausalLM", "moe": {"num_experts": 4, "top_k": 2}}

ALGORITHMS = [None, "W8A16", "W4A16", "FP8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W4A8_AWQ", "NVFP4"]


def config_of(
    base: dict[str, Any], *, tp: int = 1, pp: int = 1, algorithm: str | None = None, kv: str | None = None
) -> dict[str, Any]:
    return {
        **base,
        "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv},
    }


def ranks_of(config: dict[str, Any]) -> list[Tensors]:
    """What the layout asks for, with the factors of the KV cache as ModelOpt writes them."""
    mapping = config["mapping"]
    ranks: list[Tensors] = []
    for rank in range(mapping["tp_size"] * mapping["pp_size"]):
        needs = tensors_of_rank(read_shape(config), rank)
        chosen = {n: (need.dtypes[0], need.shapes[0]) for n, need in needs.items() if not need.optional or n == "lm_head.weight"}
        kv = {n: (need.dtypes[0], need.shapes[0]) for n, need in needs.items() if n.endswith(".kv_cache_scaling_factor")}
        ranks.append({**chosen, **kv})
    return ranks


def write(folder: Path, config: dict[str, Any], ranks: list[Tensors]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for rank, tensors in enumerate(ranks):
        header: dict[str, Any] = {}
        end = 0
        for name, (dtype, shape) in tensors.items():
            size = math.prod(shape) * DTYPE_BITS[dtype] // 8
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        head = json.dumps(header).encode()
        with open(folder / f"rank{rank}.safetensors", "wb") as stream:
            stream.write(len(head).to_bytes(8, "little") + head)
            stream.truncate(8 + len(head) + end)  # a hole: no tensor is ever read
    return folder


@st.composite
def checkpoints(draw: st.DrawFn) -> tuple[dict[str, Any], list[Tensors]]:
    base = draw(st.sampled_from([LLAMA, QWEN2, QWEN3, BIASED]))
    config = config_of(
        base,
        tp=draw(st.sampled_from([1, 2, 4])),
        pp=draw(st.sampled_from([1, 2])),
        algorithm=draw(st.sampled_from(ALGORITHMS)),
        kv=draw(st.sampled_from([None, "FP8", "INT8"])),
    )
    return config, ranks_of(config)


def problems(config: dict[str, Any], ranks: list[Tensors], change: Callable[[Path], None] | None = None) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), config, ranks)
        if change is not None:
            change(Path(folder))
        return [f"{p.where}: {p.message}" for p in check_checkpoint(Path(folder))]


# ------------------------------------------------------------------------------------------------------------------
# Right ones
# ------------------------------------------------------------------------------------------------------------------


@given(checkpoints())
@settings(max_examples=40, deadline=None)
def test_a_checkpoint_as_its_config_tells_is_right(made: tuple[dict[str, Any], list[Tensors]]) -> None:
    assert problems(*made) == []


def test_llama_on_two_gpus_has_the_shapes_that_the_documentation_gives() -> None:
    """Numbers worked out by hand, against the layout itself."""
    ranks = ranks_of(config_of(BIASED, tp=2))
    assert ranks[0] == ranks[1]
    assert ranks[0]["transformer.layers.1.attention.qkv.weight"] == ("F16", (4 * 64 + 2 * 64, 256))
    assert ranks[0]["transformer.layers.1.attention.qkv.bias"] == ("F16", (384,))
    assert ranks[0]["transformer.layers.0.attention.dense.weight"] == ("F16", (256, 256))
    assert ranks[0]["transformer.layers.0.attention.dense.bias"] == ("F16", (256,))
    assert ranks[0]["transformer.layers.0.mlp.fc.weight"] == ("F16", (256, 256))
    assert ranks[0]["transformer.layers.0.mlp.gate.bias"] == ("F16", (256,))
    assert ranks[0]["transformer.layers.0.mlp.proj.weight"] == ("F16", (256, 256))
    assert ranks[0]["transformer.vocab_embedding.weight"] == ("F16", (5, 256))
    assert ranks[0]["lm_head.weight"] == ("F16", (5, 256))
    assert len(ranks[0]) == 2 * (2 + 4 + 6) + 3


def test_experts_are_split_by_gpus_or_dealt_out() -> None:
    split, dealt = config_of(MIXTRAL, tp=2), config_of(MIXTRAL, tp=2)
    dealt["mapping"].update({"moe_tp_size": 1, "moe_ep_size": 2})
    assert ranks_of(split)[0]["transformer.layers.0.mlp.fc.weight"] == ("F16", (4, 512, 256))
    assert ranks_of(dealt)[0]["transformer.layers.0.mlp.fc.weight"] == ("F16", (2, 1024, 256))
    assert problems(split, ranks_of(split)) == []
    assert problems(dealt, ranks_of(dealt)) == []


def test_context_parallel_ranks_share_files() -> None:
    config = config_of(LLAMA, tp=2)
    config["mapping"].update({"cp_size": 2, "world_size": 4})
    assert problems(config, ranks_of(config)) == []


def test_tables_of_positions_that_nvidias_scripts_save_are_no_mistake() -> None:
    (rank,) = ranks_of(config_of(LLAMA))
    tables: Tensors = {
        "rotary_inv_freq": ("F32", (32,)),
        "embed_positions": ("F32", (1, 8)),
        "embed_positions_for_gpt_attention": ("F32", (8,)),
    }
    assert problems(config_of(LLAMA), [{**rank, **tables}]) == []


def test_a_head_that_is_the_embedding_may_be_left_out() -> None:
    config = config_of(LLAMA)
    (rank,) = ranks_of(config)
    del rank["lm_head.weight"]
    assert problems(config, [rank]) == []


def test_a_head_in_another_stage_than_the_embedding_may_not() -> None:
    config = config_of(LLAMA, pp=2)
    ranks = ranks_of(config)
    del ranks[1]["lm_head.weight"]
    assert problems(config, ranks) == ["rank1.safetensors: lm_head.weight: is missing"]


def test_key_and_value_caches_may_be_scaled_each() -> None:
    config = config_of(LLAMA, kv="FP8")
    (rank,) = ranks_of(config)
    for name in [n for n in rank if n.endswith("kv_cache_scaling_factor")]:
        del rank[name]
        rank[name.replace("kv_cache", "k_cache")] = rank[name.replace("kv_cache", "v_cache")] = ("F32", (1,))
    assert problems(config, [rank]) == []


def excluding(config: dict[str, Any], *patterns: str, **more: Any) -> dict[str, Any]:
    return {**config, "quantization": {**config["quantization"], "exclude_modules": list(patterns), **more}}


@pytest.mark.parametrize("algorithm", ["FP8", "W4A16_AWQ", "NVFP4"])
def test_modules_that_are_excluded_are_not_quantized_and_all_others_are(algorithm: str) -> None:
    config = excluding(config_of(LLAMA, algorithm=algorithm), "lm_head", "transformer.layers.1.mlp.*", "*.attention.dense")
    ranks = ranks_of(config)
    assert problems(config, ranks) == []
    for name in ("transformer.layers.1.mlp.fc", "transformer.layers.0.attention.dense"):
        assert ranks[0][f"{name}.weight"][0] == "F16"
        assert f"{name}.weights_scaling_factor" not in ranks[0]
    assert "transformer.layers.0.mlp.fc.weights_scaling_factor" in ranks[0]
    everything = config_of(LLAMA, algorithm=algorithm)
    assert any("transformer.layers.1.mlp.fc.weight" in found for found in problems(config, ranks_of(everything)))
    assert any("transformer.layers.1.mlp.fc.weight" in found for found in problems(everything, ranks))


def test_a_head_may_be_quantized_where_no_exception_names_it() -> None:
    config = excluding(config_of(LLAMA, algorithm="FP8"), "transformer.layers.0.attention.*")
    (rank,) = ranks_of(config)
    plain = {name: tensor for name, tensor in rank.items() if not name.startswith("lm_head")}
    plain["lm_head.weight"] = ("F16", (10, 256))
    assert problems(config, [plain]) == [], "left alone all the same"
    factors: Tensors = {"lm_head.weights_scaling_factor": ("F32", (1,)), "lm_head.activation_scaling_factor": ("F32", (1,))}
    quantized: Tensors = {**plain, "lm_head.weight": ("F8_E4M3", (10, 256)), **factors}
    assert problems(config, [quantized]) == []
    assert any("lm_head" in found for found in problems(excluding(config, "lm_head"), [quantized]))
    assert any("not quantized, and has a" in found for found in problems(config, [{**plain, **factors}]))


@pytest.mark.parametrize(
    ("said", "before", "zero", "found"),
    [
        ({"has_zero_point": True, "pre_quant_scale": True}, True, True, None),
        ({"has_zero_point": True}, True, False, "attention.qkv.zero: is missing"),
        ({"has_zero_point": False}, True, True, "holds zero points, and config.json has none"),
        ({"pre_quant_scale": True}, False, False, "prequant_scaling_factor: is missing"),
        ({"pre_quant_scale": False}, True, False, "says that inputs are not scaled"),
        ({"has_zero_point": "no"}, True, False, "has_zero_point: is 'no'"),
    ],
)
def test_what_goes_with_groups_of_weights_is_as_the_config_says(
    said: dict[str, Any], before: bool, zero: bool, found: str | None
) -> None:
    """Of an architecture whose tensors are not all known, so that nothing else finds it."""
    config = config_of({**LLAMA, "architecture": "FalconForCausalLM"}, algorithm="W4A16_AWQ")
    config["quantization"] |= said
    rank: Tensors = {}
    for name in ("transformer.layers.0.attention.qkv.", "transformer.layers.1.mlp.fc."):
        rank |= {f"{name}weight": ("I8", (64, 256)), f"{name}weights_scaling_factor": ("F16", (128, 2))}
        rank |= {f"{name}prequant_scaling_factor": ("F16", (256,))} if before else {}
        rank |= {f"{name}zero": ("F16", (128, 2))} if zero else {}
    told = problems(config, [rank])
    assert told == [] if found is None else any(found in text for text in told), told


def test_groups_that_do_not_divide_a_weight_are_found_in_the_config() -> None:
    config = config_of(LLAMA, algorithm="W4A16_AWQ")
    told = problems({**config, "quantization": {**config["quantization"], "group_size": 96}}, ranks_of(config))
    assert any("quantization.group_size: is 96, which does not divide 256" in text for text in told)


# ------------------------------------------------------------------------------------------------------------------
# Changed ones
# ------------------------------------------------------------------------------------------------------------------


@given(checkpoints(), st.data())
@settings(max_examples=80, deadline=None)
def test_every_change_of_a_tensor_is_found_and_named(made: tuple[dict[str, Any], list[Tensors]], data: st.DataObject) -> None:
    config, ranks = made
    rank = data.draw(st.integers(0, len(ranks) - 1), label="rank")
    tensors = ranks[rank]
    # The head may be left out of the first stage's file, and how a weight-only weight looks is left open.
    name = data.draw(st.sampled_from([n for n in tensors if n != "lm_head.weight"]), label="tensor")
    dtype, shape = tensors[name]
    change = data.draw(st.sampled_from(["drop", "rename", "shape", "dtype", "add"]), label="change")
    if change == "drop":
        del tensors[name]
    elif change == "rename":
        tensors[name.replace("transformer.", "transformers.", 1)] = tensors.pop(name)
    elif change == "shape":
        tensors[name] = (dtype, (*shape[:-1], shape[-1] + 1) if shape else (2,))
    elif change == "dtype":
        tensors[name] = ("I32", shape)
    else:
        name = f"{name}.again"
        tensors[name] = (dtype, shape)
    found = problems(config, ranks)
    assert any(line.startswith(f"rank{rank}.safetensors: {name}: ") for line in found), found


@given(checkpoints(), st.data())
@settings(max_examples=40, deadline=None)
def test_every_missing_or_damaged_rank_is_found(made: tuple[dict[str, Any], list[Tensors]], data: st.DataObject) -> None:
    config, ranks = made
    name = f"rank{data.draw(st.integers(0, len(ranks) - 1))}.safetensors"

    def remove(folder: Path) -> None:
        (folder / name).unlink()

    def truncate(folder: Path) -> None:
        with open(folder / name, "r+b") as stream:
            stream.truncate((folder / name).stat().st_size - 1)

    found = problems(config, ranks, data.draw(st.sampled_from([remove, truncate])))
    assert any(line.startswith(f"{name}: ") for line in found), found


WRONG_CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("architecture", {"architecture": None}, "is missing"),
    ("dtype", {"dtype": None}, "is missing"),
    ("dtype", {"dtype": "float8"}, "'float8'"),
    ("vocab_size", {"vocab_size": "10"}, "'10'"),
    ("hidden_size", {"hidden_size": 0}, "0"),
    ("num_hidden_layers", {"num_hidden_layers": True}, "True"),
    ("num_attention_heads", {"num_attention_heads": 3}, "cannot be split over 2 ranks"),
    ("num_key_value_heads", {"num_attention_heads": 6, "num_key_value_heads": 3}, "copied evenly to 2 ranks"),
    (
        "num_hidden_layers",
        {"num_hidden_layers": 1, "mapping": {"world_size": 2, "pp_size": 2}},
        "fewer than the 2 pipeline stages",
    ),
    ("hidden_act", {"hidden_act": None}, "is missing"),
    ("rotary_base", {"rotary_base": None}, "would take 10000"),
    ("rotary_base", {"rotary_base": -1.0}, "-1.0"),
    ("qwen_type", {"architecture": "Qwen2ForCausalLM"}, "'qwen2' or 'qwen3'"),
    ("mapping", {"mapping": [1]}, "[1]"),
    ("mapping.world_size", {"mapping": {"world_size": 3, "tp_size": 2, "pp_size": 1}}, "2 x 1 x 1 = 2"),
    ("mapping.tp_size", {"mapping": {"tp_size": 0}}, "0"),
    ("mapping.moe_tp_size", {"mapping": {"world_size": 2, "tp_size": 2, "moe_tp_size": 2, "moe_ep_size": 2}}, "2 x 2"),
    ("quantization", {"quantization": "fp8"}, "'fp8'"),
    ("quantization.quant_algo", {"quantization": {"quant_algo": "fp8"}}, "'fp8'"),
    ("quantization.kv_cache_quant_algo", {"quantization": {"kv_cache_quant_algo": "W4A16"}}, "FP8, INT8, NVFP4"),
    ("quantization.group_size", {"quantization": {"group_size": 0}}, "0"),
    ("quantization.exclude_modules", {"quantization": {"exclude_modules": "lm_head"}}, "'lm_head'"),
]


@pytest.mark.parametrize(("key", "changes", "says"), WRONG_CONFIGS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_config_is_named_by_its_key(key: str, changes: dict[str, Any], says: str) -> None:
    config = config_of(LLAMA, tp=2)
    found = problems({**config, **changes}, ranks_of(config))
    assert any(line.startswith(f"config.json: {key}: ") and says in line for line in found), found


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "is missing"), ("{", "is not JSON"), ("[]", "is not a JSON object")],
    ids=["none", "cut", "array"],
)
def test_a_config_that_is_none_is_said(content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    (problem,) = check_checkpoint(tmp_path)
    assert problem.where == "config.json"
    assert says in problem.message


def test_a_rank_too_many_is_of_another_checkpoint() -> None:
    config = config_of(LLAMA, tp=2)
    config["mapping"] = {"world_size": 1, "tp_size": 1, "pp_size": 1}
    ranks = ranks_of(config)
    assert problems(config, ranks * 2) == [
        "rank1.safetensors: is of a rank that config.json does not have: mapping.world_size is 1"
    ]


def test_factors_without_quantization_are_found() -> None:
    quantized, plain = config_of(LLAMA, algorithm="FP8", kv="FP8"), config_of(LLAMA)
    found = problems(plain, ranks_of(quantized))
    assert any("mlp.fc.weights_scaling_factor: is a scaling factor" in line for line in found)
    assert any(
        "kv_cache_scaling_factor: is there, and config.json says that the KV cache is not quantized" in line for line in found
    )


def test_quantization_without_factors_is_found() -> None:
    quantized, plain = config_of(LLAMA, algorithm="FP8", kv="FP8"), config_of(LLAMA)
    found = problems(quantized, ranks_of(plain))
    assert any("mlp.fc.weights_scaling_factor: is missing" in line for line in found)
    assert any(
        "attention.kv_cache_scaling_factor: is missing, and config.json says that the KV cache is FP8" in line for line in found
    )


def test_of_other_families_what_holds_for_all_is_checked() -> None:
    config = config_of({**LLAMA, "architecture": "GPTForCausalLM"}, tp=2, algorithm="FP8")
    ranks: list[Tensors] = [{"transformer.layers.0.mlp.fc.weight": ("F8_E4M3", (4, 4))} for _ in range(2)]
    ranks[0]["transformer.layers.0.mlp.fc.weights_scaling_factor"] = ("F32", (1,))
    found = problems(config, ranks)
    assert (
        "rank1.safetensors: transformer.layers.0.mlp.fc.weights_scaling_factor: is missing, and rank0.safetensors has it" in found
    )
    assert any(
        line.startswith("rank1.safetensors: transformer.layers.0.mlp.fc.weight: is F8_E4M3, and its scaling") for line in found
    )
    ranks[1]["transformer.layers.0.mlp.fc.weights_scaling_factor"] = ("F16", (1,))
    assert problems(config, ranks) == [
        "rank1.safetensors: transformer.layers.0.mlp.fc.weights_scaling_factor: is F16, and F32 in rank0.safetensors"
    ]


def test_require_raises_with_the_first_problem_and_the_number_of_others(tmp_path: Path) -> None:
    config = config_of(LLAMA)
    require_checkpoint(write(tmp_path, config, ranks_of(config)))
    write(tmp_path, config, [{}])
    with pytest.raises(BuildError, match=r"rank0.safetensors: transformer.vocab_embedding.weight: is missing \(and 15 more\)"):
        require_checkpoint(tmp_path)
