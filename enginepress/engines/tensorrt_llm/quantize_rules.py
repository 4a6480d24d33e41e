"""What the `tensorrt_llm` builder refuses for quantize.py, which ignores it, or does it wrongly without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginepress.engines.architecture import read_shape
from enginepress.engines.tensorrt_llm.architectures import Family
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe

CALIBRATED = ("fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq")
"""Precisions that are made with texts."""

AWQ_SAMPLES = 32
"""quantize.py takes no more for AWQ, whatever it is told (`quantize_and_export`)."""

_AWQ = ("int4_awq", "w4a8_awq")
_AWQ_BLOCKS = ("64", "128")
"""For which TensorRT-LLM has kernels (fpA_intB_gemm_template.h)."""

_PADDED_TO = 64


def check_quantize(arguments: Mapping[str, str | None], config: Mapping[str, Any], recipe: Recipe, family: Family) -> None:
    """What quantize.py ignores, or does without a word.

    Args:
        arguments: that it is given.

    Raises:
        RecipeError: naming the field.
    """
    precision, block = recipe.engine.precision, arguments.get("--awq_block_size")
    if block is not None and precision not in _AWQ:
        raise RecipeError(
            f"--awq_block_size has no effect on {precision}", where="engine.options.convert.awq_block_size", fix="leave it out"
        )
    if block is not None and block not in _AWQ_BLOCKS:
        raise RecipeError(
            f"--awq_block_size is {block}, and TensorRT-LLM has kernels for {' and '.join(_AWQ_BLOCKS)}",
            where="engine.options.convert.awq_block_size",
            fix=f"set it to {' or '.join(_AWQ_BLOCKS)}, or leave it out",
        )
    if "--quantize_lm_head" in arguments and precision not in CALIBRATED:
        raise RecipeError(
            f"--quantize_lm_head has no effect on {precision}",
            where="engine.options.convert.quantize_lm_head",
            fix="leave it out",
        )
    if not family.recurrent:  # whose widths are spelt otherwise
        _check_blocks(config, recipe, int(block) if block is not None else _BLOCKS.get(precision, 0))
    vocabulary = config.get("vocab_size")
    if precision in _AWQ and isinstance(vocabulary, int) and vocabulary % _PADDED_TO:
        # modelopt/torch/export/postprocess.py, `pad_embedding_lm_head`: rows of zeros, whose logits are 0 and not minus infinity
        raise RecipeError(
            f"for {precision} quantize.py pads the vocabulary of {vocabulary} to a multiple of {_PADDED_TO}, with tokens that do "
            "not exist and that could be sampled",
            where="engine.precision",
            fix="use int4, fp8 or int8, or engine.builder: llmapi",
        )


_BLOCKS = {"int4_awq": 128, "w4a8_awq": 128, "nvfp4": 16}
"""Columns that share a scale (quantize.py: --awq_block_size; NVFP4's own)."""


def _check_blocks(config: Mapping[str, Any], recipe: Recipe, block: int) -> None:
    """ModelOpt stops at such a weight, after it has loaded and measured the model."""
    if not block:
        return
    shape, tensor, precision = read_shape(config), recipe.engine.parallelism.tensor, recipe.engine.precision
    plain = shape.intermediate_size if shape.expert_layers < shape.layers else shape.hidden_size * tensor
    for name, columns, ranks in (
        ("hidden_size", shape.hidden_size, 1),
        ("num_attention_heads x head_dim", shape.heads * shape.head_dim, tensor),
        ("intermediate_size", plain, tensor),
    ):
        if columns % ranks == 0 and columns // ranks % block:
            half = precision in _AWQ and block == 128 and columns // ranks % 64 == 0
            raise RecipeError(
                f"{precision} scales weights by blocks of {block} columns, and {name} is {columns // ranks}"
                + (f" on each of {ranks} GPUs" if ranks > 1 else ""),
                where="engine.precision",
                fix=("set engine.options.convert.awq_block_size: 64, or " if half else "")
                + ("use fewer GPUs in engine.parallelism.tensor, or " if ranks > 1 else "")
                + "use fp8, int8 or int4",
            )
