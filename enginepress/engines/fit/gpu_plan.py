"""Does a model fit on its GPUs? Puts weights, activations, overhead and KV cache together, and says all that is in the way.

Fits means: weights, activations and overhead leave room in the KV cache for one request of full length on every rank. More
requests at once than the cache holds at full length are no failure, since the runtime lets them wait; the plan says how many
run. Everything here is pure: no file, no network, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from enginepress.engines import gpus, versions
from enginepress.engines.architecture import Shape
from enginepress.engines.fit.cache import BLOCK_TOKENS, Cache, Cap, cache_of, cap_of
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.host import Host, host_of
from enginepress.engines.fit.parallelism import attention_ranks, parallelism_problems
from enginepress.engines.fit.problem import Problem, of_error
from enginepress.engines.fit.sizes import GB, GIB, quantized_as
from enginepress.engines.fit.weights import Weights, weights_of
from enginepress.engines.fit.working import activations_of, cache_pool, overhead_of
from enginepress.engines.gpus import Gpu
from enginepress.engines.prompts import longest_prompt, tokens_of, why_whole
from enginepress.engines.versions import Container
from enginepress.recipe import Recipe


@dataclass(frozen=True)
class FitPlan:
    """What a recipe takes on its GPUs. Bytes are of the rank that has most, unless said otherwise.

    Attributes:
        memory: of one GPU, as nvidia-smi says.
        cap: what the recipe limits the cache to, where that is less than its share of the memory.
        cache_pool: for the KV cache; negative if not even the rest fits.
        request: KV cache of one request of full length; `request_all` on all ranks together.
        sequence: tokens of a request of full length. batch: requests asked for at once.
        longest_prompt: tokens of the longest prompt that is served.
        full_requests: of full length that the cache holds at once.
        largest_batch: the most requests of full length that fit at once, whatever the recipe asks.
        largest_sequence: the longest single request that fits, at most what the model was made for.
        largest_sequence_at_batch: the longest that all `batch` requests may be at once; 0 if none.
        problems: why it is refused; empty if it fits.
        changes: each makes it fit, the smallest first. Only there if it does not fit.
        notes: what one should know although it fits.
    """

    shape: Shape
    recipe: Recipe
    gpu: Gpu
    container: Container
    memory: int
    weights: Weights
    activations: int
    overhead: int
    cache: Cache
    cache_pool: int
    request: int
    request_all: int
    tokens: int
    sequence: int
    longest_prompt: int
    batch: int
    full_requests: int
    largest_batch: int
    largest_sequence: int
    largest_sequence_at_batch: int
    host: Host
    cap: Cap | None = None
    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def world_size(self) -> int:
        return self.recipe.engine.parallelism.world_size

    @property
    def needed(self) -> int:
        """Bytes of a GPU that are used with one request of full length."""
        return self.weights.rank + self.activations + self.overhead + self.request

    def to_json(self) -> dict[str, Any]:
        engine = self.recipe.engine
        return {
            "fits": self.fits,
            "builder": engine.builder,
            "model": {
                "architecture": self.shape.architecture,
                "parameters": self.shape.parameters,
                "context": self.shape.context,
                "quantized": self.shape.quantization is not None,
            },
            "precision": engine.precision,
            "kv_cache": engine.kv_cache,
            "gpu": {
                "name": self.gpu.name,
                "sm": self.gpu.sm,
                "memory_bytes": self.memory,
                "count": engine.gpu.count if engine.gpu else self.world_size,
                "nodes": engine.gpu.nodes if engine.gpu else 1,
            },
            "container": {
                "tag": self.container.tag,
                "image": self.container.image,
                "holds": self.container.holds,
                "cuda": self.container.cuda,
                "driver": self.container.driver,
                "oldest_driver": versions.load_matrix().driver_for(self.container, self.gpu),
                "template": self.container.template if engine.builder != "llmapi" else "llmapi",
            },
            "world_size": self.world_size,
            "rank": {
                "weights": self.weights.rank,
                "activations_estimate": self.activations,
                "overhead_estimate": self.overhead,
                "kv_cache_pool": self.cache_pool,
                "kv_cache_per_token": self.cache.rank_token,
                "kv_cache_per_request": self.request,
            },
            "weights": self.weights.total,
            "weights_of_all_ranks": self.weights.ranks,
            "checkpoint": self.weights.checkpoint,
            "kv_cache_per_token": self.cache.all_token,
            "kv_cache_per_request": self.request_all,
            "max_num_tokens": self.tokens,
            "sequence": self.sequence,
            "longest_prompt": self.longest_prompt,
            "batch": self.batch,
            "full_requests": self.full_requests,
            "largest_batch": self.largest_batch,
            "largest_sequence": self.largest_sequence,
            "largest_sequence_at_batch": self.largest_sequence_at_batch,
            "host": self.host.to_json(),
            "problems": [p.to_json() for p in self.problems],
            "changes": [c.to_json() for c in self.changes],
            "notes": list(self.notes),
        }


def assess(shape: Shape, weight_bytes: int | None, recipe: Recipe, gpu: Gpu, container: Container) -> FitPlan:
    """The plan, without looking for changes."""
    limits = recipe.engine.limits
    sequence = limits.max_sequence_length or shape.context
    weights, cache = weights_of(shape, recipe, weight_bytes), cache_of(shape, recipe)
    activations = activations_of(shape, recipe, sequence)
    overhead = overhead_of(recipe, gpu.memory_bytes)
    pool = cache_pool(recipe, gpu.memory_bytes, weights.rank + activations, overhead)
    request = cache.rank_request(sequence, limits.max_beam_width)
    cap = cap_of(recipe, cache)
    if cap is not None and cap.bytes < pool:
        pool = cap.bytes
    else:
        cap = None
    largest_batch = max(0, pool // request) if request else 0

    def longest(requests: int) -> int:
        return largest(lambda n: requests * cache.rank_request(n, limits.max_beam_width) <= pool, shape.context, BLOCK_TOKENS)

    plan = FitPlan(
        shape=shape,
        recipe=recipe,
        gpu=gpu,
        container=container,
        memory=gpu.memory_bytes,
        weights=weights,
        activations=activations,
        overhead=overhead,
        cache=cache,
        cache_pool=pool,
        request=request,
        request_all=cache.all_request(sequence, limits.max_beam_width),
        tokens=tokens_of(recipe, sequence),
        sequence=sequence,
        longest_prompt=longest_prompt(recipe, sequence, latent=shape.latent is not None, sm=gpu.sm),
        batch=limits.max_batch_size,
        full_requests=min(largest_batch, limits.max_batch_size),
        largest_batch=largest_batch,
        largest_sequence=longest(1),
        largest_sequence_at_batch=longest(limits.max_batch_size),
        host=host_of(recipe, weights, quantized=shape.quantization is not None),
        cap=cap,
    )
    problems = [
        *_limit_problems(plan),
        *_container_problems(plan),
        *parallelism_problems(shape, recipe, gpu),
        *_publication_problems(recipe),
    ]
    # Memory of a spread that cannot be is no news; on several nodes it still says what would be needed.
    if not any(p.where.startswith("engine.parallelism") for p in problems):
        problems += [*_memory_problems(plan), *_conversion_problems(plan)]
    return replace(plan, problems=tuple(problems), notes=tuple(_notes(plan)))


def largest(holds: Callable[[int], bool], most: int, step: int) -> int:
    """The largest multiple of `step` up to `most` (or `most` itself) for which `holds`, which is true up to some number; 0 if
    for none."""
    if holds(most):
        return most
    low, high = 0, most // step
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle * step):
            low = middle
        else:
            high = middle - 1
    return low * step


# What is in the way ---------------------------------------------------------------------------------------------------


def _limit_problems(plan: FitPlan) -> list[Problem]:
    limits, problems = plan.recipe.engine.limits, []
    if plan.sequence > plan.shape.context:
        problems.append(
            Problem(
                "engine.limits.max_sequence_length",
                f"{plan.sequence} is more than the {plan.shape.context} tokens that the model was made for",
                f"set it to {plan.shape.context} or less, or leave it out",
            )
        )
    if limits.max_input_length is not None and limits.max_input_length >= plan.sequence:
        problems.append(
            Problem(
                "engine.limits.max_input_length",
                f"{limits.max_input_length} leaves no room for an answer in a sequence of {plan.sequence}",
                "set it below the sequence's length, or leave it out",
            )
        )
    elif (asked := limits.max_input_length) is not None and min(asked, plan.sequence - 1) > plan.longest_prompt:
        problems.append(
            Problem(
                "engine.limits.max_input_length",
                f"prompts of {asked} tokens are asked for, and the longest prompt that is served has {plan.longest_prompt}: one "
                f"pass takes {plan.tokens} tokens, and {_whole(plan)}",
                f"set engine.limits.max_num_tokens to {asked} or more, or let prompts be computed in pieces",
            )
        )
    if limits.max_num_tokens is not None and limits.max_num_tokens < limits.max_batch_size * limits.max_beam_width:
        problems.append(
            Problem(
                "engine.limits.max_num_tokens",
                f"{limits.max_num_tokens} is less than one token for each of {limits.max_batch_size} requests"
                + (f" and {limits.max_beam_width} beams" if limits.max_beam_width > 1 else ""),
                f"set it to {limits.max_batch_size * limits.max_beam_width} or more",
            )
        )
    return problems


def _whole(plan: FitPlan) -> str | None:
    return why_whole(plan.recipe, latent=plan.shape.latent is not None, sm=plan.gpu.sm)


def _container_problems(plan: FitPlan) -> list[Problem]:
    engine, container = plan.recipe.engine, plan.container
    if engine.builder not in container.builders:
        reason = container.refused.get(engine.builder, "it is not known there")
        return [Problem(versions.FIELD, f"builder '{engine.builder}' does not work in Triton {container.tag}: {reason}", "")]
    if error := gpus.unsupported(plan.gpu, engine.builder, engine.precision, engine.kv_cache, container):
        return [of_error(error)]
    own = quantized_as(plan.shape.quantization)
    if own is not None and own not in plan.gpu.precisions:
        return [
            Problem(
                "config.json",
                f"the checkpoint is quantized already, in {own}, which is impossible on {plan.gpu.name} (SM {plan.gpu.sm}, "
                f"{plan.gpu.architecture}): {gpus.need(own)}",
                "name the checkpoint that is not quantized, or another GPU",
            )
        ]
    if container.cuda and versions.version_key(container.cuda) < versions.version_key(plan.gpu.cuda):
        return [
            Problem(
                versions.FIELD,
                f"Triton {container.tag} has CUDA {container.cuda}, and {plan.gpu.name} needs {plan.gpu.cuda} or newer",
                "use a newer container",
            )
        ]
    return []


def _publication_problems(recipe: Recipe) -> list[Problem]:
    """One pod cannot gate what runs on several nodes, so such a release is unserved and goes no further than candidate."""
    gpu, problems = recipe.engine.gpu, []
    if gpu is None or gpu.nodes == 1:
        return []
    if recipe.checks.served:
        problems.append(
            Problem(
                "checks.served",
                f"a model on {gpu.nodes} nodes cannot be served by the gate, which is one pod",
                "set checks.served: false; the release then says that it is unserved",
            )
        )
    others = [name for name in recipe.channels if name != "candidate"]
    if others:
        problems.append(
            Problem(
                "channels",
                f"an unserved release goes to no channel but candidate, and {', '.join(others)} "
                + ("is" if len(others) == 1 else "are")
                + " named",
                "set channels: [candidate]",
            )
        )
    if recipe.engine.builder == "tensorrt_llm" and recipe.serving.multi_gpu == "orchestrator":
        problems.append(
            Problem(
                "serving.multi_gpu", "orchestrator mode works on one node only", "use leader, which mpirun starts on all nodes"
            )
        )
    return problems


def _memory_problems(plan: FitPlan) -> list[Problem]:
    if plan.cache_pool >= plan.request:
        return []
    if plan.cap is not None:
        least = plan.cache.kept(plan.sequence) * plan.recipe.engine.limits.max_beam_width
        return [
            Problem(
                plan.cap.field,
                f"limits the KV cache to {plan.cap.said}, {gib(plan.cap.bytes)} a rank, and one request of {plan.sequence} "
                f"tokens needs {gib(plan.request)}",
                f"leave it out, or raise it to {least:.0f} tokens, {plan.request} bytes, or more",
            )
        ]
    fixed = plan.weights.rank + plan.activations + plan.overhead
    world = plan.world_size
    on = f"each of {world} {plan.gpu.name}" if world > 1 else plan.gpu.name
    if fixed > plan.memory:
        weights = f"weights of {gb(plan.weights.total)}" + (f", {gb(plan.weights.rank)} a GPU," if world > 1 else "")
        return [
            Problem(
                "engine",
                f"{weights} do not fit: with activations of {gib(plan.activations)} and overhead of {gib(plan.overhead)} {on} "
                f"would need {gib(fixed)} and has {gib(plan.memory)}"
                + (f" ({world} have {world * plan.gpu.marketed_gb} GB)" if world > 1 else ""),
                "",
            )
        ]
    return [
        Problem(
            "engine.limits.max_sequence_length",
            f"one request of {plan.sequence} tokens needs {gib(plan.request)} of KV cache"
            + (" on each rank" if world > 1 else "")
            + f", and {gib(max(0, plan.cache_pool))} are left on {on} beside weights of {gib(plan.weights.rank)}, "
            f"activations of {gib(plan.activations)} and overhead of {gib(plan.overhead)}",
            "",
        )
    ]


def _conversion_problems(plan: FitPlan) -> list[Problem]:
    """quantize.py is one process on one node."""
    engine, needed = plan.recipe.engine, plan.host.convert_gpu_memory
    if engine.gpu is None or needed <= engine.gpu.count * plan.memory:
        return []
    on = f"{engine.gpu.count} {plan.gpu.name}" if engine.gpu.count > 1 else plan.gpu.name
    what = engine.precision if engine.kv_cache is None else f"{engine.precision} with a KV cache in {engine.kv_cache}"
    return [
        Problem(
            "engine.converter",
            f"making {what} in the container takes {gib(needed)} of GPU memory on one node (an estimate: the checkpoint and what "
            f"is made of it), and {on} {'have' if engine.gpu.count > 1 else 'has'} {gib(engine.gpu.count * plan.memory)}",
            "name a checkpoint that is quantized already as the source, or convert elsewhere",
        )
    ]


# What one should know -------------------------------------------------------------------------------------------------


def _notes(plan: FitPlan) -> list[str]:
    engine, notes = plan.recipe.engine, []
    if plan.request and 0 < plan.full_requests < plan.batch:
        longest = plan.largest_sequence_at_batch
        notes.append(
            f"{plan.full_requests} of {plan.batch} requests run at once if all have {plan.sequence} tokens; the others wait"
            + (f". All {plan.batch} run at once up to {longest} tokens" if longest else "")
        )
    if plan.longest_prompt < min(plan.recipe.engine.limits.max_input_length or plan.sequence, plan.sequence - 1):
        notes.append(f"longer prompts than {plan.longest_prompt} tokens are refused, since {_whole(plan)}")
    if plan.cap is not None:
        notes.append(f"{plan.cap.field} limits the KV cache to {plan.cap.said}, less than its share of the memory")
    if draft := _draft_model(plan.recipe):
        notes.append(f"the draft model of {draft} is not in this plan: neither its weights nor its KV cache")
    if plan.shape.windowed_layers and plan.cache.window is None:
        why = (
            "though vLLM may keep less" if engine.builder == "vllm" else "since the runtime keeps them unless it is told a window"
        )
        notes.append(
            f"{plan.shape.windowed_layers} of {plan.shape.layers} layers look back {plan.shape.window} tokens only; the cache is "
            f"planned for all tokens, {why}"
        )
    if engine.parallelism.tensor > attention_ranks(plan.recipe):
        notes.append(
            "each rank has requests of its own (enable_attention_dp): numbers of requests are those of one rank, and "
            f"{engine.parallelism.tensor} ranks take them"
        )
    elif plan.shape.latent is not None:
        notes.append("multi-head latent attention: the KV cache is one compressed vector a token, the same on every rank")
    group = engine.parallelism.tensor * engine.parallelism.context
    if group > plan.gpu.nvlink and plan.gpu.parent is None:
        linked = f"NVLink joins {plan.gpu.nvlink} of them" if plan.gpu.nvlink > 1 else "they have no NVLink"
        notes.append(f"{group} {plan.gpu.name} exchange data in every layer, and {linked}: expect it to be slow")
    if plan.weights.by_files and plan.shape.quantization is None:
        notes.append("the checkpoint's files are larger than its config.json says; the weights are planned by the files")
    if plan.shape.quantization is not None:
        notes.append("the checkpoint is quantized already; its weights are planned as they are in its files")
    if engine.gpu is not None and engine.gpu.nodes > 1:
        notes.append("on several nodes the release is unserved: nothing has asked it anything before it is published")
    return notes


def _draft_model(recipe: Recipe) -> str | None:
    """The argument that names a second model, which speculates."""
    arguments = recipe.serving.engine_args
    speculation = arguments.get("speculative_config")
    if isinstance(speculation, dict) and any(speculation.get(name) for name in ("model", "speculative_model_dir")):
        return "serving.engine_args.speculative_config"
    return "serving.engine_args.speculative_model" if arguments.get("speculative_model") else None


def gib(number: float) -> str:
    return f"{number / GIB:.1f} GiB"


def gb(number: float) -> str:
    """For weights, which people count in GB."""
    return f"{number / GB:.0f} GB" if number >= 10 * GB else f"{number / GB:.1f} GB"
