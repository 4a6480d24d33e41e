"""Weights of one rank: from the model's shapes, and from the sizes of the checkpoint's files where those say more.

    rank = layers of its stage / tensor + what every rank has (norms, choosers of experts, compressed projections)
         + input embedding (first stage) + output embedding (last stage, / tensor)

Weights and their division by tensor and pipeline parallelism: NVIDIA/TensorRT-LLM docs/source/legacy/reference/memory.md,
"Weights size"; that a rank without `--use_parallel_embedding` holds the whole input embedding: its convert scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.parallelism import attention_ranks, expert_split, stage_layers
from enginepress.engines.fit.sizes import QUANTIZED_BYTES, SOURCE_BYTES, WEIGHT_BYTES, embedding_bytes
from enginepress.recipe import Recipe

FILES_SAY_MORE = 1.02
"""Files that are larger than the shapes say, by this factor, hold something that the shapes do not: they are believed."""


@dataclass(frozen=True)
class Weights:
    """Bytes of weights.

    Attributes:
        rank: of the rank that has most.
        total: of one copy of everything.
        ranks: of all ranks together, with what several of them have: what lies on disk.
        checkpoint: of the checkpoint's files, or what they would have by its shapes.
        by_files: the files' sizes made the difference.
    """

    rank: int
    total: int
    ranks: int
    checkpoint: int
    by_files: bool


def weights_of(shape: Shape, recipe: Recipe, weight_bytes: int | None) -> Weights:
    """Args:
    weight_bytes: of the checkpoint's weight files, or None if not known.
    """
    said = int(_checkpoint_bytes(shape))
    checkpoint = weight_bytes if weight_bytes is not None else said
    factor = checkpoint / said
    if shape.quantization is not None:
        # Such a checkpoint stays as it is on disk, whoever loads which part of it.
        kept = _kept(shape, recipe, checkpoint)
        return Weights(kept, checkpoint, checkpoint, checkpoint, weight_bytes is not None)
    more = factor > FILES_SAY_MORE
    by = factor if more else 1.0
    rank, total = _rank_bytes(shape, recipe) * by, _all_bytes(shape, recipe) * by
    return Weights(int(rank), int(total), int(max(total, _ranks_bytes(shape, recipe) * by)), checkpoint, more)


def _ranks_bytes(shape: Shape, recipe: Recipe) -> float:
    """Of all ranks: everything once, what tensor parallelism copies, and all of it for each part of the context."""
    parallelism = recipe.engine.parallelism
    one_stage = recipe.model_copy(
        update={"engine": recipe.engine.model_copy(update={"parallelism": parallelism.model_copy(update={"pipeline": 1})})}
    )
    return _rank_bytes(shape, one_stage) * parallelism.tensor * parallelism.context


def _kept(shape: Shape, recipe: Recipe, checkpoint: int) -> int:
    """Of a checkpoint that is quantized already and stays as it is: divided like the same model in 16 bit."""
    sixteen = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": "bfloat16"})})
    share = _rank_bytes(shape, sixteen) / _all_bytes(shape, sixteen)
    return int(checkpoint * share)


def _checkpoint_bytes(shape: Shape) -> float:
    """What the checkpoint's files have by its shapes."""
    number = SOURCE_BYTES.get(shape.dtype or "bfloat16", 2.0)
    block = number
    if shape.quantization is not None:
        method = _method(shape.quantization)
        block = QUANTIZED_BYTES.get(method, 1.0)
        number = 2.0
    embeddings = (1 if shape.tied else 2) * shape.embedding_parameters
    return shape.block_parameters * block + (embeddings + shape.norm_parameters) * number


def _method(quantization: Mapping[str, object]) -> str:
    bits = quantization.get("bits") or quantization.get("w_bit")
    method = str(quantization.get("quant_method", quantization.get("quant_algo", "modelopt"))).lower()
    return "fp8" if bits == 8 and method in ("gptq", "awq") else method


def _all_bytes(shape: Shape, recipe: Recipe) -> float:
    """Of one copy of everything."""
    precision = recipe.engine.precision
    return shape.block_parameters * WEIGHT_BYTES[precision] + (
        (2 if _two_embeddings(shape, recipe) else 1) * shape.embedding_parameters + shape.norm_parameters
    ) * embedding_bytes(precision)


def _two_embeddings(shape: Shape, recipe: Recipe) -> bool:
    """A TensorRT engine holds lm_head as a matrix of its own even if the checkpoint ties it (cautious: some releases share
    it on one GPU); the others keep one, unless they lie on different stages."""
    return not shape.tied or recipe.engine.builder == "tensorrt_llm" or recipe.engine.parallelism.pipeline > 1


def _rank_bytes(shape: Shape, recipe: Recipe) -> float:
    """Of the rank that has most."""
    parallelism, precision = recipe.engine.parallelism, recipe.engine.precision
    tensor, weight, plain = parallelism.tensor, WEIGHT_BYTES[precision], embedding_bytes(precision)
    layers = stage_layers(shape, recipe)
    with_experts = min(layers, shape.expert_layers)
    matrices = (
        layers * _attention_of_rank(shape, attention_ranks(recipe))
        + (layers - with_experts) * shape.plain_parameters / tensor
        + with_experts * _experts_of_rank(shape, recipe)
    )
    norms = (2 * layers + 1) * shape.hidden_size
    # Only the chooser of experts is whole on every rank and stays unquantized.
    chooser = with_experts * shape.hidden_size * shape.experts.count if shape.experts is not None else 0
    return matrices * weight + (norms + chooser + _embeddings_of_rank(shape, recipe)) * plain


def _attention_of_rank(shape: Shape, tensor: int) -> float:
    if shape.latent is not None:
        mla = shape.latent
        whole = shape.hidden_size * (mla.cached + mla.q_rank)  # compressed: not divided by heads
        return whole + (shape.attention_parameters - whole) / tensor
    heads, kv_heads = shape.heads / tensor, -(-shape.kv_heads // tensor)
    biases = shape.head_dim * (heads + 2 * kv_heads) if shape.bias else 0
    return shape.hidden_size * shape.head_dim * (2 * heads + 2 * kv_heads) + biases


def _experts_of_rank(shape: Shape, recipe: Recipe) -> float:
    if shape.experts is None:
        return 0.0
    split = expert_split(recipe.engine.parallelism)
    shared = 3 * shape.hidden_size * shape.experts.shared_size
    return shape.expert_parameters / (split.tensor * split.expert) + shared / recipe.engine.parallelism.tensor


def _splits_embedding(recipe: Recipe) -> bool:
    """Whether ranks share the input embedding: told to, or made by ModelOpt, alone or in quantize.py, which always does it
    (modelopt/torch/export/tensorrt_llm_utils.py; seen in docs/gpu.md)."""
    engine, options = recipe.engine, recipe.engine.options.convert
    by_script = engine.kv_cache is None and (
        engine.precision in _BY_SCRIPT or bool({"use_fp8_rowwise", "smoothquant"} & set(options))
    )
    return engine.converter == "modelopt" or not by_script or bool(options.get("use_parallel_embedding"))


_BY_SCRIPT = ("float32", "float16", "bfloat16", "int8", "int4")
"""Precisions that convert_checkpoint.py makes (`engines.tensorrt_llm.convert_command`)."""


def _embeddings_of_rank(shape: Shape, recipe: Recipe) -> float:
    engine = recipe.engine
    tensor = attention_ranks(recipe)
    # A vocabulary that ranks cannot share evenly is padded.
    one = -(-shape.vocab_size // tensor) * tensor * shape.hidden_size
    whole_input = engine.builder == "tensorrt_llm" and not _splits_embedding(recipe)
    first = shape.embedding_parameters if whole_input else one / tensor
    last = one / tensor
    if engine.parallelism.pipeline > 1:
        return max(first, last)
    return first + last if _two_embeddings(shape, recipe) else first
