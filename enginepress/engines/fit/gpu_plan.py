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
from enginepress.engines.fit.adapters import FIELDS, Adapters, adapters_of
from enginepress.engines.fit.cache import BLOCK_TOKENS, Cache, Cap, cache_of, cap_of
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.draft import Draft, draft_weights, named_draft, with_draft
from enginepress.engines.fit.host import Host, host_of
from enginepress.engines.fit.notes import notes_of, whole
from enginepress.engines.fit.parallelism import parallelism_problems
from enginepress.engines.fit.predictor import with_predictor
from enginepress.engines.fit.problem import Problem, of_error
from enginepress.engines.fit.sizes import gb, gib, mib, quantized_as
from enginepress.engines.fit.weights import Weights, weights_of
from enginepress.engines.fit.working import activations_of, cache_pool, cache_share, overhead_of
from enginepress.engines.gpus import Gpu
from enginepress.engines.prompts import longest_prompt, tokens_of
from enginepress.engines.versions import Container
from enginepress.recipe import Recipe


@dataclass(frozen=True)
class FitPlan:
    """What a recipe takes on its GPUs. Bytes are of the rank that has most, unless said otherwise.

    Attributes:
        memory: of one GPU, as nvidia-smi says.
        cap: what the recipe limits the cache to, where that is less than its share of the memory.
        draft: the second model that speculates, if one is named; `draft_weights` are its bytes. Its KV cache is in the cache.
        adapters: the cache for LoRA adapters, if there are any.
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
    draft: Draft | None = None
    draft_weights: int = 0
    adapters: Adapters | None = None
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
        return self.fixed + self.request

    @property
    def fixed(self) -> int:
        """Bytes of a GPU that are taken before the KV cache."""
        adapters = self.adapters.bytes if self.adapters is not None and self.adapters.before else 0
        return self.weights.rank + self.draft_weights + self.activations + self.overhead + adapters

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
                "draft_weights": self.draft_weights,
                "adapters": self.adapters.bytes if self.adapters is not None else 0,
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


def assess(
    shape: Shape, weight_bytes: int | None, recipe: Recipe, gpu: Gpu, container: Container, draft: Draft | None = None
) -> FitPlan:
    """The plan, without looking for changes."""
    limits, draft = recipe.engine.limits, draft if draft is not None else named_draft(recipe)
    sequence = limits.max_sequence_length or shape.context
    weights = weights_of(shape, recipe, weight_bytes)
    cache = with_draft(with_predictor(cache_of(shape, recipe), shape, recipe), draft, recipe)
    activations = activations_of(shape, recipe, sequence)
    overhead = overhead_of(recipe, gpu.memory_bytes)
    taken = weights.rank + draft_weights(draft, recipe) + activations
    adapters = adapters_of(shape, recipe, gpu.memory_bytes - taken - overhead, cache_share(recipe))
    before = adapters.bytes if adapters is not None and adapters.before else 0
    pool = cache_pool(recipe, gpu.memory_bytes, taken, overhead, adapters=before)
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
        draft=draft,
        draft_weights=draft_weights(draft, recipe),
        adapters=adapters,
    )
    problems = [
        *_limit_problems(plan),
        *_container_problems(plan),
        *parallelism_problems(shape, recipe, gpu),
        *_publication_problems(recipe),
    ]
    # Memory of a spread that cannot be is no news; on several nodes it still says what would be needed.
    if not any(p.where.startswith("engine.parallelism") for p in problems):
        problems += [*(_memory_problems(plan) or _adapter_problems(plan)), *_conversion_problems(plan)]
    return replace(plan, problems=tuple(problems), notes=tuple(notes_of(plan)))


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
                f"pass takes {plan.tokens} tokens, and {whole(plan)}",
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
    world = plan.world_size
    on = f"each of {world} {plan.gpu.name}" if world > 1 else plan.gpu.name
    if plan.fixed > plan.memory:
        weights = f"weights of {gb(plan.weights.total)}" + (f", {gb(plan.weights.rank)} a GPU," if world > 1 else "")
        return [
            Problem(
                "engine",
                f"{weights} do not fit: with {_beside(plan)} {on} would need {gib(plan.fixed)} and has {gib(plan.memory)}"
                + (f" ({world} have {world * plan.gpu.marketed_gb} GB)" if world > 1 else ""),
                "",
            )
        ]
    beside = f"weights of {gib(plan.weights.rank)}, {_beside(plan)}"
    return [
        Problem(
            "engine.limits.max_sequence_length",
            f"one request of {plan.sequence} tokens needs {gib(plan.request)} of KV cache"
            + (" on each rank" if world > 1 else "")
            + f", and {gib(max(0, plan.cache_pool))} are left on {on} beside {beside}",
            "",
        )
    ]


def _beside(plan: FitPlan) -> str:
    """What a GPU has beside weights and KV cache, in words."""
    parts = []
    if plan.draft_weights:
        parts.append(f"a draft model of {gib(plan.draft_weights)}")
    if plan.adapters is not None and plan.adapters.before:
        parts.append(f"LoRA adapters of {gib(plan.adapters.bytes)}")
    return ", ".join([*parts, f"activations of {gib(plan.activations)}"]) + f" and overhead of {gib(plan.overhead)}"


def _adapter_problems(plan: FitPlan) -> list[Problem]:
    """A server that loads, and cannot load the first adapter."""
    adapters = plan.adapters
    if adapters is None or adapters.count > 0:
        return []
    size, rank = FIELDS[plan.recipe.engine.builder]
    return [
        Problem(
            size,
            f"the cache for LoRA adapters has {mib(adapters.bytes)} on {plan.gpu.name}, and one adapter of rank {adapters.rank} "
            f"takes {mib(adapters.adapter)}",
            f"set {size} higher, or {rank} to the rank that the adapters have",
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
