"""The smallest change that makes a plan fit. Every change that is offered was tried: with it, the plan fits.

From small to large: what only the runtime feels (tokens in one pass, requests at once, the cache's precision, length), then
precision, then more GPUs of the node, another GPU, more nodes; two of them together only where none is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from enginepress.engines import gpus, versions
from enginepress.engines.architecture import Shape
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.gpu_plan import FitPlan, assess, largest
from enginepress.engines.fit.parallelism import usable_tensor_sizes
from enginepress.engines.fit.sizes import WEIGHT_BYTES
from enginepress.engines.gpus import Gpu
from enginepress.engines.prompts import why_whole
from enginepress.errors import EnginepressError
from enginepress.recipe import Recipe

MIN_SEQUENCE = 512
"""A shorter context is no help to anybody."""

MIN_TOKENS = 512

BY_QUALITY = ("float16", "bfloat16", "fp8", "int8", "nvfp4", "int4_awq", "w4a8_awq", "int4")
"""Precisions that save memory, roughly by what they cost in quality. SmoothQuant is left out: int8 weights save the same."""

CALIBRATED = ("fp8", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq")
"""Precisions that are measured with texts."""

GPUS_A_NODE = (1, 2, 4, 8)
MAX_NODES = 8
AT_MOST = 6
"""Changes offered."""


def changes_for(plan: FitPlan, weight_bytes: int | None) -> tuple[Change, ...]:
    """Changes that make a refused plan fit, smallest first; empty if none is known."""
    search = _Search(plan, weight_bytes)
    singles = list(islice(search.singles(), AT_MOST))
    return tuple(singles or islice(search.pairs(), AT_MOST // 2))


class _Search:
    def __init__(self, plan: FitPlan, weight_bytes: int | None) -> None:
        self.plan = plan
        self.shape: Shape = plan.shape
        self.recipe: Recipe = plan.recipe
        self.weight_bytes = weight_bytes
        # On several nodes nothing is of use without these.
        nodes = plan.recipe.engine.gpu.nodes if plan.recipe.engine.gpu is not None else 1
        self.always = _unserved(plan.recipe) if nodes > 1 else ()

    def fits(self, change: Change) -> bool:
        recipe = self.whole(change).apply(self.recipe)
        gpu, container = self.plan.gpu, self.plan.container
        try:
            if recipe.engine.gpu is not None and recipe.engine.gpu != self.recipe.engine.gpu:
                gpu = gpus.find(recipe.engine.gpu.name)
            if recipe.engine != self.recipe.engine:
                container = versions.choose(recipe)
            return assess(self.shape, self.weight_bytes, recipe, gpu, container).fits
        except EnginepressError:
            return False

    def whole(self, change: Change) -> Change:
        """With what is needed beside every change."""
        named = {name for name, _ in change.fields}
        return Change((*change.fields, *(f for f in self.always if f[0] not in named)), change.why)

    def singles(self) -> Iterator[Change]:
        if self.always and self.fits(Change((), "")):
            yield Change(self.always, "unserved: for channel candidate only")
            return
        for kind in (
            self.fewer_tokens,
            self.more_tokens,
            self.fewer_requests,
            self.smaller_cache,
            self.shorter,
            self.precision,
            self.spread,
            self.more_gpus,
            self.other_gpu,
            self.more_nodes,
        ):
            yield from map(self.whole, kind())

    def pairs(self) -> Iterator[Change]:
        """Precision together with more GPUs, another GPU or more nodes; more GPUs of another kind."""
        for precision in self._precisions():
            first = Change((("engine.precision", precision),), self._weights_in(precision))
            for second in (*self._gpu_counts(), *self._node_counts()):
                both = Change((*first.fields, *second.fields), f"{first.why}; {second.why}")
                if self.fits(both):
                    yield self.whole(both)
                    break
        for count in self._gpu_counts():
            for other in self._other_gpus():
                both = Change((*other.fields, *count.fields), f"{other.why}; {count.why}")
                if self.fits(both):
                    yield self.whole(both)
                    break

    # Each kind gives at most its smallest change ----------------------------------------------------------------------

    def fewer_tokens(self) -> Iterator[Change]:
        field = "engine.limits.max_num_tokens"

        whole = why_whole(self.recipe, latent=self.shape.latent is not None, sm=self.plan.gpu.sm) is not None
        price = "longer prompts are refused" if whole else "longer prompts take more passes"

        def change(tokens: int) -> Change:
            return Change(((field, tokens),), f"fewer tokens in one pass: smaller activations, {price}")

        least = max(MIN_TOKENS, self.plan.batch * self.recipe.engine.limits.max_beam_width)
        if self.plan.tokens > least and self.fits(change(least)):
            yield change(max(least, largest(lambda n: self.fits(change(max(n, least))), self.plan.tokens, 256)))

    def more_tokens(self) -> Iterator[Change]:
        """A pass that takes a whole prompt, where prompts are not computed in pieces."""
        asked = self.recipe.engine.limits.max_input_length
        if asked is not None and self.plan.longest_prompt < asked:
            change = Change((("engine.limits.max_num_tokens", asked),), "a pass takes a whole prompt")
            if self.fits(change):
                yield change

    def fewer_requests(self) -> Iterator[Change]:
        field = "engine.limits.max_batch_size"

        def change(requests: int) -> Change:
            return Change(((field, requests),), "fewer requests at once")

        if self.plan.batch > 1 and self.fits(change(1)):
            yield change(largest(lambda n: self.fits(change(max(1, n))), self.plan.batch, 1))

    def smaller_cache(self) -> Iterator[Change]:
        if self.recipe.engine.kv_cache is None:
            for kind in self.plan.container.can_cache(self.recipe.engine.builder, self.plan.gpu.sm):
                change = Change((("engine.kv_cache", kind),), "half the KV cache")
                if self.fits(change):
                    yield change
                    return

    def shorter(self) -> Iterator[Change]:
        field = "engine.limits.max_sequence_length"

        def change(length: int) -> Change:
            return Change(((field, length),), "shorter requests")

        most = min(self.plan.sequence, self.shape.context)
        if most > MIN_SEQUENCE and self.fits(change(MIN_SEQUENCE)):
            yield change(largest(lambda n: self.fits(change(max(MIN_SEQUENCE, n))), most, 64))

    def precision(self) -> Iterator[Change]:
        for name in self._precisions():
            change = Change((("engine.precision", name),), self._weights_in(name))
            if self.fits(change):
                yield change
                return

    def spread(self) -> Iterator[Change]:
        """Another spread over the GPUs that there are, or over fewer of them, where the recipe's is impossible."""
        gpu, parallelism = self.recipe.engine.gpu, self.recipe.engine.parallelism
        if gpu is None or not any(p.where.startswith(("engine.parallelism", "engine.gpu.count")) for p in self.plan.problems):
            return
        for tensor in reversed(usable_tensor_sizes(self.shape, self.recipe, gpu.count)):
            named = {"tensor": tensor, "pipeline": gpu.nodes, "context": 1, "moe_tensor": None, "moe_expert": None}
            fields = [(f"engine.parallelism.{k}", v) for k, v in named.items() if getattr(parallelism, k) != v]
            if tensor != gpu.count:
                fields.append(("engine.gpu.count", tensor))
            change = Change(tuple(fields), f"{tensor * gpu.nodes} GPUs in all")
            if fields and self.fits(change):
                yield change
                return

    def more_gpus(self) -> Iterator[Change]:
        for change in self._gpu_counts():
            if self.fits(change):
                yield change
                return

    def other_gpu(self) -> Iterator[Change]:
        for change in self._other_gpus():
            if self.fits(change):
                yield change
                return

    def more_nodes(self) -> Iterator[Change]:
        for change in self._node_counts():
            if self.fits(change):
                yield change
                return

    # What there is to try ---------------------------------------------------------------------------------------------

    def _precisions(self) -> Iterator[str]:
        if self.shape.quantization is not None:
            return
        now: Any = self.recipe.engine.precision
        possible = self.plan.container.can(self.recipe.engine.builder, self.plan.gpu.sm)
        impossible = now not in possible
        smaller = [name for name in BY_QUALITY if name in possible and (impossible or _bytes(name) < _bytes(now))]
        if impossible:  # what saves as much as what was asked for, before all others
            smaller.sort(key=lambda name: abs(_bytes(name) - _bytes(now)))
        yield from smaller

    def _weights_in(self, precision: str) -> str:
        bits = round(8 * _bytes(precision))
        measured = precision in CALIBRATED and self.recipe.engine.calibration is None
        return f"weights of {bits} bits" + (", made with engine.calibration" if measured else "")

    def _gpu_counts(self) -> Iterator[Change]:
        """More GPUs of this kind in each node, with tensor parallelism over all of them."""
        gpu, parallelism = self.recipe.engine.gpu, self.recipe.engine.parallelism
        if gpu is None or self.plan.gpu.parent is not None or parallelism.context > 1:
            return
        # What NVLink joins first; GPUs without it can be joined over PCIe, at a price that the plan notes.
        for count in GPUS_A_NODE:
            if count > gpu.count and count in usable_tensor_sizes(self.shape, self.recipe, count):
                fields: tuple[tuple[str, Any], ...] = (("engine.gpu.count", count), ("engine.parallelism.tensor", count))
                yield Change((*fields, *self._experts(count)), f"{count} GPUs a node")

    def _experts(self, tensor: int) -> tuple[tuple[str, Any], ...]:
        """Keeps moe_tensor * moe_expert = tensor, if the recipe names them."""
        parallelism = self.recipe.engine.parallelism
        if parallelism.moe_tensor is None and parallelism.moe_expert is None:
            return ()
        return (("engine.parallelism.moe_tensor", tensor), ("engine.parallelism.moe_expert", 1))

    def _other_gpus(self) -> Iterator[Change]:
        """Other GPUs by memory, smallest first; of a MIG profile the larger profiles of the same GPU come first."""
        mine = self.plan.gpu
        found: list[Gpu] = []
        if mine.parent is not None:
            parent = gpus.find(mine.parent)
            found += [parent.profile(p.name) for p in parent.mig if p.memory_bytes > mine.memory_bytes]
        whole = [gpu for gpu in gpus.load_gpus() if gpu.name != mine.name]
        # Of the same memory, the older one: it is the cheaper one.
        found += sorted(whole, key=lambda gpu: gpu.memory_bytes)
        world = self.plan.world_size
        for gpu in found:
            if world == 1 or gpu.nvlink >= min(world, mine.nvlink):
                yield Change((("engine.gpu.name", gpu.name),), f"{gpu.marketed_gb} GB" if gpu.parent is None else "a larger part")

    def _node_counts(self) -> Iterator[Change]:
        """More nodes, with pipeline parallelism between them. Such a release is unserved and goes to candidate only."""
        gpu, parallelism = self.recipe.engine.gpu, self.recipe.engine.parallelism
        if gpu is None or self.plan.gpu.parent is not None:
            return
        for factor in (2, 3, 4, 6, 8):
            nodes, pipeline = gpu.nodes * factor, parallelism.pipeline * factor
            if nodes <= MAX_NODES and pipeline <= self.shape.layers:
                fields = (("engine.gpu.nodes", nodes), ("engine.parallelism.pipeline", pipeline), *_unserved(self.recipe))
                yield Change(fields, f"{nodes} nodes, unserved: for channel candidate only")


def _bytes(precision: Any) -> float:
    return WEIGHT_BYTES[precision]


def _unserved(recipe: Recipe) -> tuple[tuple[str, Any], ...]:
    """What a recipe for several nodes must say."""
    fields: list[tuple[str, Any]] = []
    if recipe.checks.served:
        fields.append(("checks.served", False))
    if any(name != "candidate" for name in recipe.channels):
        fields.append(("channels", ["candidate"]))
    return tuple(fields)
