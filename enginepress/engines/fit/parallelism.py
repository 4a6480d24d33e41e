"""Over how many GPUs a model may be spread, and how: what divides what, and what the wiring allows.

    world size = tensor * pipeline * context = ranks = GPUs of one instance
    moe_tensor * moe_expert = tensor

Tensor parallelism exchanges data in every layer and stays inside a node (inside an NVLink domain where there is one);
pipeline parallelism passes one activation on and may cross nodes. The product rules are those of TensorRT-LLM's Mapping
(NVIDIA/TensorRT-LLM, tensorrt_llm/mapping.py); head rules those of its attention weights: key/value heads are divided among
ranks, or each is copied to the same number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enginepress.engines.architecture import Shape
from enginepress.engines.fit.problem import Problem, combined
from enginepress.recipe import Parallelism, Recipe

if TYPE_CHECKING:
    from enginepress.engines.gpus import Gpu

AWQ_GROUP = 128
"""Weights that share a scale in AWQ (`--awq_block_size` of TensorRT-LLM's quantize.py)."""

AWQ = ("int4_awq", "w4a8_awq")

_TENSOR = "engine.parallelism.tensor"
_PIPELINE = "engine.parallelism.pipeline"


@dataclass(frozen=True)
class ExpertSplit:
    """How experts are spread: `tensor` ranks share one expert, `expert` groups have different ones."""

    tensor: int
    expert: int


def expert_split(parallelism: Parallelism) -> ExpertSplit:
    """What the recipe says, with TensorRT-LLM's rule for what it leaves out: all ranks share each expert."""
    tensor, moe_tensor, moe_expert = parallelism.tensor, parallelism.moe_tensor, parallelism.moe_expert
    if moe_tensor is None and moe_expert is None:
        return ExpertSplit(tensor, 1)
    if moe_tensor is None:
        return ExpertSplit(max(1, tensor // (moe_expert or 1)), moe_expert or 1)
    return ExpertSplit(moe_tensor, moe_expert if moe_expert is not None else max(1, tensor // moe_tensor))


def attention_ranks(recipe: Recipe) -> int:
    """Ranks that share the heads of attention. With the LLM API's `enable_attention_dp` each rank has all heads, and requests of
    its own (tensorrt_llm/mapping.py)."""
    alone = recipe.engine.builder == "llmapi" and recipe.serving.engine_args.get("enable_attention_dp") is True
    return 1 if alone else recipe.engine.parallelism.tensor


def replicas(recipe: Recipe) -> int:
    """Copies of the model in one server, each on GPUs of its own: vLLM's `data_parallel_size`."""
    value = recipe.serving.engine_args.get("data_parallel_size") if recipe.engine.builder == "vllm" else None
    return value if type(value) is int and value > 1 else 1


def check_parallelism(shape: Shape, recipe: Recipe) -> None:
    """Refuses a spread that this model or this node cannot have.

    Raises:
        RecipeError: naming field, value, limit and remedy; several together if several are wrong.
    """
    problems = parallelism_problems(shape, recipe)
    if problems:
        raise combined(problems)


def stage_layers(shape: Shape, recipe: Recipe) -> int:
    """Layers of the stage that has most: evenly divided, or as the LLM API's `pp_partition` says."""
    stages, said = recipe.engine.parallelism.pipeline, _partition(recipe)
    return max(said) if said is not None and len(said) == stages else -(-shape.layers // stages)


def _partition(recipe: Recipe) -> list[int] | None:
    said = recipe.serving.engine_args.get("pp_partition") if recipe.engine.builder == "llmapi" else None
    return said if isinstance(said, list) and said and all(type(layers) is int for layers in said) else None


def parallelism_problems(shape: Shape, recipe: Recipe, gpu: Gpu | None = None) -> list[Problem]:
    """All that is wrong with the recipe's parallelism. With `gpu` also what its wiring forbids."""
    return [
        *_tensor_problems(shape, recipe),
        *_pipeline_problems(shape, recipe),
        *_context_problems(shape, recipe),
        *_expert_problems(shape, recipe),
        *_world_problems(recipe),
        *(_wiring_problems(recipe, gpu) if gpu is not None else []),
    ]


def usable_tensor_sizes(shape: Shape, recipe: Recipe, limit: int) -> list[int]:
    """Sizes of tensor parallelism up to `limit` that the model's heads and widths allow, ascending."""
    sizes = []
    for size in range(1, limit + 1):
        engine = recipe.engine
        tried = engine.model_copy(update={"parallelism": Parallelism(tensor=size)})
        if not _tensor_problems(shape, recipe.model_copy(update={"engine": tried})):
            sizes.append(size)
    return sizes


def _tensor_problems(shape: Shape, recipe: Recipe) -> list[Problem]:
    """The first thing that the size does not divide."""
    size = recipe.engine.parallelism.tensor
    if size == 1:
        return []
    if shape.heads % size:
        return [
            Problem(_TENSOR, f"{size} does not divide the {shape.heads} attention heads", f"use {_divisors(shape.heads, size)}")
        ]
    if shape.latent is None and shape.kv_heads % size and size % shape.kv_heads:
        return [
            Problem(
                _TENSOR,
                f"{size} neither divides the model's {shape.kv_heads} key/value heads nor is a multiple of them",
                f"use {_divisors(shape.kv_heads, size)} or a multiple of {shape.kv_heads}",
            )
        ]
    if shape.expert_layers == shape.layers:
        return []
    if shape.intermediate_size % size:
        return [
            Problem(
                _TENSOR,
                f"{size} does not divide the width of the feed-forward layers, {shape.intermediate_size}",
                f"use {_divisors(shape.intermediate_size, size)}",
            )
        ]
    columns = shape.intermediate_size // size
    if recipe.engine.precision in AWQ and columns % AWQ_GROUP:
        return [
            Problem(
                _TENSOR,
                f"with {size}, a rank has {columns} of {shape.intermediate_size} columns of the feed-forward layers, which is no "
                f"multiple of AWQ's groups of {AWQ_GROUP}",
                "use a smaller size, or another precision",
            )
        ]
    return []


def _pipeline_problems(shape: Shape, recipe: Recipe) -> list[Problem]:
    size, said = recipe.engine.parallelism.pipeline, _partition(recipe)
    if said is not None and (len(said) != size or sum(said) != shape.layers or min(said) < 1):
        return [
            Problem(
                "serving.engine_args.pp_partition",
                f"{said} does not divide {shape.layers} layers into {size} stages (engine.parallelism.pipeline)",
                "name the layers of each stage, or leave it out",
            )
        ]
    if size > shape.layers:
        return [Problem(_PIPELINE, f"{size} is more than the model's {shape.layers} layers", f"use {shape.layers} or less")]
    if recipe.engine.builder == "tensorrt_llm" and shape.layers % size:
        return [
            Problem(
                _PIPELINE,
                f"{size} does not divide the model's {shape.layers} layers; some releases of TensorRT-LLM would leave layers out",
                f"use {_divisors(shape.layers, size)}",
            )
        ]
    return []


def _context_problems(shape: Shape, recipe: Recipe) -> list[Problem]:
    size = recipe.engine.parallelism.context
    if size == 1:
        return []
    where = "engine.parallelism.context"
    if recipe.engine.builder != "tensorrt_llm":
        return [Problem(where, f"builder '{recipe.engine.builder}' has no context parallelism, and {size} is asked for", "use 1")]
    if shape.experts is not None:
        return [Problem(where, f"{size} is impossible with mixture of experts in TensorRT-LLM", "use 1")]
    return []


def _expert_problems(shape: Shape, recipe: Recipe) -> list[Problem]:
    parallelism = recipe.engine.parallelism
    said = parallelism.moe_tensor is not None or parallelism.moe_expert is not None
    where = "engine.parallelism.moe_tensor" if parallelism.moe_tensor is not None else "engine.parallelism.moe_expert"
    if shape.experts is None:
        return [Problem(where, "the model has no experts", "leave moe_tensor and moe_expert out")] if said else []
    split, problems = expert_split(parallelism), []
    if split.tensor * split.expert != parallelism.tensor:
        problems.append(
            Problem(
                where,
                f"moe_tensor {split.tensor} * moe_expert {split.expert} is {split.tensor * split.expert} and must be "
                f"engine.parallelism.tensor, {parallelism.tensor}",
                f"use moe_tensor 1 and moe_expert {parallelism.tensor}, or {parallelism.tensor} and 1",
            )
        )
    if shape.experts.count % split.expert:
        problems.append(
            Problem(
                "engine.parallelism.moe_expert",
                f"{split.expert} does not divide the model's {shape.experts.count} experts",
                f"use {_divisors(shape.experts.count, split.expert)}",
            )
        )
    if shape.experts.intermediate_size % split.tensor:
        problems.append(
            Problem(
                "engine.parallelism.moe_tensor" if said else _TENSOR,
                f"{split.tensor} does not divide an expert's width, {shape.experts.intermediate_size}",
                f"use {_divisors(shape.experts.intermediate_size, split.tensor)}, or moe_expert to deal experts out whole",
            )
        )
        return problems
    columns = shape.experts.intermediate_size // split.tensor
    if recipe.engine.precision in AWQ and split.tensor > 1 and columns % AWQ_GROUP:
        problems.append(
            Problem(
                "engine.parallelism.moe_tensor" if said else _TENSOR,
                f"with {split.tensor}, a rank has {columns} of {shape.experts.intermediate_size} columns of an expert, which is "
                f"no multiple of AWQ's groups of {AWQ_GROUP}",
                f"set moe_tensor: 1 and moe_expert: {parallelism.tensor} to deal experts out whole, or use another precision",
            )
        )
    return problems


def _world_problems(recipe: Recipe) -> list[Problem]:
    engine = recipe.engine
    if engine.gpu is None:
        return []
    world, count, nodes = engine.parallelism.world_size * replicas(recipe), engine.gpu.count, engine.gpu.nodes
    available = count * nodes
    group = engine.parallelism.tensor * engine.parallelism.context
    product = (
        f"tensor {engine.parallelism.tensor} * pipeline {engine.parallelism.pipeline}"
        + (f" * context {engine.parallelism.context}" if engine.parallelism.context > 1 else "")
        + (f" * data_parallel_size {replicas(recipe)}" if replicas(recipe) > 1 else "")
    )
    if world > available:
        return [
            Problem(
                "engine.gpu.count",
                f"{product} takes {world} GPUs, and {nodes} node{'s' if nodes > 1 else ''} of {count} have {available}",
                f"set engine.gpu.count to {-(-world // nodes)}, or spread over fewer",
            )
        ]
    if nodes > 1 and world < available:
        return [_idle(product, world, available)]
    if world < available and "gpu_device_ids" not in recipe.serving.parameters:
        return [_idle(product, world, available)]
    return _group_problems(recipe, group)


def _idle(product: str, world: int, available: int) -> Problem:
    return Problem(
        "engine.gpu.count",
        f"{product} takes {world} of {available} GPUs, and the others would be idle",
        f"set engine.gpu.count and nodes to {world} in all, or serve several instances with serving.parameters.gpu_device_ids",
    )


def _group_problems(recipe: Recipe, group: int) -> list[Problem]:
    engine = recipe.engine
    assert engine.gpu is not None
    if engine.gpu.nodes > 1 and engine.gpu.count % group and group % engine.gpu.count:
        return [
            Problem(
                _TENSOR,
                f"groups of {group} GPUs do not divide nodes of {engine.gpu.count}, so that some would lie on two nodes",
                f"use {_divisors(engine.gpu.count, group)}, and engine.parallelism.pipeline for the rest",
            )
        ]
    return []


def _wiring_problems(recipe: Recipe, gpu: Gpu) -> list[Problem]:
    engine = recipe.engine
    if engine.gpu is None:
        return []
    group, count = engine.parallelism.tensor * engine.parallelism.context, engine.gpu.count
    if gpu.parent is None and engine.parallelism.world_size > count * engine.gpu.nodes:
        return []  # there are too few at all, which `_world_problems` says
    if gpu.parent is not None and engine.parallelism.world_size > 1:
        return [
            Problem(
                _TENSOR if group > 1 else _PIPELINE,
                f"MIG instances cannot exchange data, so {gpu.name} cannot be one of {engine.parallelism.world_size}",
                f"use one instance, or whole {gpu.parent} GPUs",
            )
        ]
    if group > count and (group > gpu.nvlink or not gpu.across_nodes):
        nodes = -(-group // count)
        return [
            Problem(
                _TENSOR,
                f"{group} GPUs would lie on {nodes} nodes of {count}, and tensor parallelism stays inside a node"
                + (f" (NVLink joins {gpu.nvlink} {gpu.name})" if gpu.nvlink > 1 else ""),
                f"use tensor {count} and pipeline {engine.parallelism.world_size // count or 1}",
            )
        ]
    return []


def _divisors(number: int, about: int) -> str:
    """The divisors of a number that one would use instead of `about`: at most four, the nearest below and one above."""
    below = [d for d in range(1, about) if number % d == 0][-3:]
    above = next((d for d in range(about + 1, number + 1) if number % d == 0), None)
    found = [str(d) for d in ([*below, above] if above is not None else below)]
    return " or ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else found[0]
