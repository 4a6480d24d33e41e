"""The smallest change that makes a plan fit. Every change that is offered was tried: with it, the plan fits.

From small to large: what only the runtime feels (tokens in one pass, requests at once, the cache's precision, length), then
precision, then more GPUs of the node, another GPU, more nodes; two of them together only where none is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from enginepress.engines import gpus, versions
from enginepress.engines.architecture import Shape
from enginepress.engines.fit.adapters import share_field
from enginepress.engines.fit.change import Change
from enginepress.engines.fit.gpu_plan import FitPlan, assess, largest
from enginepress.engines.fit.parallelism import usable_tensor_sizes
from enginepress.engines.fit.problem import Problem
from enginepress.engines.fit.sizes import WEIGHT_BYTES, gib
from enginepress.engines.fit.working import cache_share
from enginepress.engines.gpus import Gpu
from enginepress.engines.prompts import why_whole
from enginepress.engines.versions import Container
from enginepress.errors import EnginepressError
from enginepress.recipe import Calibration, Recipe

Objections = Callable[[Recipe, Gpu, Container], list[Problem]]
"""What others than the plan have against a recipe: its builder, the machines' driver."""

TEXTS = ("engine.calibration", Calibration(data="texts.jsonl"))
"""Stands for a file that the user has to name."""

NO_TEXTS = (TEXTS[0], None)
"""Where nothing is measured, a recipe names no texts."""

ROWWISE_SM = ("89", "90")
"""Where FP8 by rows is computed (TensorRT-LLM refuses its plugin on SM 100: plugin.py, `PluginConfig.validate`)."""

MIN_SEQUENCE = 512
"""A shorter context is no help to anybody."""

MIN_TOKENS = 512
USUAL_SHARE = 0.9

BY_QUALITY = ("float16", "bfloat16", "fp8", "int8", "nvfp4", "int4_awq", "w4a8_awq", "int4")
"""Precisions that save memory, roughly by what they cost in quality. SmoothQuant is left out: int8 weights save the same."""

GPUS_A_NODE = (1, 2, 4, 8)
MAX_NODES = 8
AT_MOST = 6
"""Changes offered."""

_TEXTS_ONLY, _WITHOUT_TEXTS = "texts", "no texts"
_MODELOPT = ("engine.converter", "modelopt")


def changes_for(plan: FitPlan, weight_bytes: int | None, objections: Objections | None = None) -> tuple[Change, ...]:
    """Changes that make a refused plan fit, smallest first; empty if none is known.

    Args:
        objections: asked of each change that would fit: it is offered only if there are none.
    """
    search = _Search(plan, weight_bytes, objections or (lambda recipe, gpu, container: []))
    singles = list(islice(search.singles(), AT_MOST))
    return tuple(singles or islice(search.pairs(), AT_MOST // 2))


class _Search:
    def __init__(self, plan: FitPlan, weight_bytes: int | None, objections: Objections) -> None:
        self.plan = plan
        self.objections = objections
        self.shape: Shape = plan.shape
        self.recipe: Recipe = plan.recipe
        self.weight_bytes = weight_bytes
        # On several nodes nothing is of use without these.
        nodes = plan.recipe.engine.gpu.nodes if plan.recipe.engine.gpu is not None else 1
        self.always = _unserved(plan.recipe) if nodes > 1 else ()

    def fits(self, change: Change) -> bool:
        return not any(against not in (_TEXTS_ONLY, _WITHOUT_TEXTS) for against in self.against(self.named(change)))

    def against(self, change: Change) -> list[str]:
        """Fields that are still in the way with this change, and `_TEXTS_ONLY` if it needs texts and has none."""
        recipe = change.apply(self.recipe)
        gpu, container = self.plan.gpu, self.plan.container
        try:
            if recipe.engine.gpu is not None and recipe.engine.gpu != self.recipe.engine.gpu:
                gpu = gpus.find(recipe.engine.gpu.name)
            if recipe.engine != self.recipe.engine:
                container = versions.choose(recipe)
            found = assess(self.shape, self.weight_bytes, recipe, gpu, container, self.plan.draft)
            if found.fits:
                found_by_others = self.objections(recipe, gpu, container)
                if [p.where for p in found_by_others] == [TEXTS[0]]:
                    field, marker = (TEXTS, _TEXTS_ONLY) if recipe.engine.calibration is None else (NO_TEXTS, _WITHOUT_TEXTS)
                    if field not in change.fields:
                        return [marker, *self.against(Change((*change.fields, field), change.why))]
                return [p.where for p in found_by_others]
            return [p.where for p in found.problems]
        except EnginepressError as error:
            return [error.where or "recipe"]

    def named(self, change: Change) -> Change:
        """With what several nodes need beside every change."""
        named = {name for name, _ in change.fields}
        return Change((*change.fields, *(f for f in self.always if f[0] not in named)), change.why)

    def whole(self, change: Change) -> Change:
        """With all that is needed beside it."""
        change = self.named(change)
        against = self.against(change)
        if _WITHOUT_TEXTS in against:
            return Change((*change.fields, NO_TEXTS), f"{change.why}; nothing is measured with texts then")
        if _TEXTS_ONLY not in against:
            return change
        return Change((*change.fields, TEXTS), f"{change.why}; texts.jsonl stands for a local file of your texts")

    def singles(self) -> Iterator[Change]:
        if self.fits(Change((), "")):
            # Nothing is missing but these: what the gate, or what a quantization, cannot do without.
            unserved = "unserved: for channel candidate only"
            idle = _WITHOUT_TEXTS in self.against(self.named(Change((), "")))
            change = self.whole(
                Change((), unserved if self.always else "no texts" if idle else "texts to measure activations with")
            )
            if change.fields:
                yield change
                yield from map(self.whole, self.by_rows())
            return
        for kind in (
            self.higher_cap,
            self.larger_share,
            self.more_adapters,
            self.fewer_tokens,
            self.more_tokens,
            self.fewer_requests,
            self.smaller_cache,
            self.shorter,
            self.elsewhere,
            self.by_rows,
            self.container,
            self.precision,
            self.precision_elsewhere,
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

    def higher_cap(self) -> Iterator[Change]:
        """No limit of the cache beside its share, where the recipe's is too small for one request."""
        cap = self.plan.cap
        if cap is None:
            return
        section, _, name = cap.field.removeprefix("serving.").partition(".")
        values = getattr(self.recipe.serving, section)
        outer, _, inner = name.partition(".")
        left = {key: value for key, value in values.items() if key != outer}
        if inner:
            left[outer] = {key: value for key, value in values[outer].items() if key != inner}
        change = Change(((f"serving.{section}", left),), f"without {name}, which limits the KV cache")
        if self.fits(change):
            yield change

    def larger_share(self) -> Iterator[Change]:
        """More memory for the cache, where the recipe gives it less than is usual."""
        field = {"vllm": "engine_args.gpu_memory_utilization", "tensorrt_llm": "parameters.kv_cache_free_gpu_mem_fraction"}
        name = field.get(self.recipe.engine.builder, "engine_args.kv_cache_config")
        if cache_share(self.recipe) < USUAL_SHARE:
            value: Any = USUAL_SHARE
            if self.recipe.engine.builder == "llmapi":
                value = {**self.recipe.serving.engine_args["kv_cache_config"], "free_gpu_memory_fraction": USUAL_SHARE}
            change = Change(((f"serving.{name}", value),), "the usual share of memory")
            if self.fits(change):
                yield change

    def more_adapters(self) -> Iterator[Change]:
        """A cache that holds one adapter at least."""
        adapters = self.plan.adapters
        if adapters is None or adapters.count > 0:
            return
        for tenths in range(1, 10):
            field, value = share_field(self.recipe, tenths / 10)
            change = Change(((field, value),), "room for an adapter")
            if self.fits(change):
                yield change
                return

    def fewer_requests(self) -> Iterator[Change]:
        field = "engine.limits.max_batch_size"

        def change(requests: int) -> Change:
            return Change(((field, requests),), "fewer requests at once")

        if self.plan.batch > 1 and self.fits(change(1)):
            yield change(largest(lambda n: self.fits(change(max(1, n))), self.plan.batch, 1))

    def smaller_cache(self) -> Iterator[Change]:
        engine, arguments = self.recipe.engine, self.recipe.serving.engine_args
        if engine.kv_cache is not None:
            return
        for kind in self.plan.container.can_cache(engine.builder, self.plan.gpu.sm):
            changes = [Change((("engine.kv_cache", kind),), "half the KV cache")]
            told = arguments.get("kv_cache_config") or {}
            if engine.builder == "llmapi" and isinstance(told, dict):
                # Of weights in 16 bit it is asked of the server.
                field = ("serving.engine_args.kv_cache_config", {**told, "dtype": kind})
                changes.append(Change((field,), "half the KV cache, without scales"))
            for change in changes:
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

    def elsewhere(self) -> Iterator[Change]:
        """The same, converted by ModelOpt in host memory."""
        change = Change((_MODELOPT,), self._host_memory((_MODELOPT,)))
        if self.recipe.engine.builder == "tensorrt_llm" and self.recipe.engine.converter != "modelopt" and self.fits(change):
            yield change

    def by_rows(self) -> Iterator[Change]:
        """FP8 that measures nothing beforehand, where the family's script has it."""
        engine = self.recipe.engine
        change = Change((("engine.options.convert.use_fp8_rowwise", True),), "scales by rows, without texts, in host memory")
        possible = engine.builder == "tensorrt_llm" and engine.precision == "fp8" and self.plan.gpu.sm in ROWWISE_SM
        if possible and self.fits(change) and _TEXTS_ONLY not in self.against(self.named(change)):
            yield change

    def container(self) -> Iterator[Change]:
        """Another container, the newest that can; an image of the user's own is what it is."""
        engine = self.recipe.engine
        if engine.image is not None:
            return
        kind = versions.load_matrix().kind(engine.builder) or ""
        for row in versions.load_matrix().of_kind(kind):
            if engine.builder in row.builders and row.tag != self.plan.container.tag:
                change = Change((("engine.container", row.tag),), f"{row.holds}, CUDA {row.cuda}")
                if self.fits(change):
                    yield change
                    return

    def precision_elsewhere(self) -> Iterator[Change]:
        """A smaller precision that the GPUs hold but cannot make."""
        if self.recipe.engine.builder != "tensorrt_llm" or self.recipe.engine.converter == "modelopt":
            return
        for name in self._precisions():
            fields = (("engine.precision", name), _MODELOPT)
            change = Change(fields, f"{self._weights_in(name)}; {self._host_memory(fields)}")
            if not self.fits(Change(fields[:1], "")) and self.fits(change):
                yield change
                return

    def _host_memory(self, fields: tuple[tuple[str, Any], ...]) -> str:
        """What ModelOpt takes of the machine that converts."""
        tried = Change(fields, "").apply(self.recipe)
        made = assess(self.shape, self.weight_bytes, tried, self.plan.gpu, self.plan.container)
        return f"made by ModelOpt on a CPU, which takes {gib(made.host.convert_memory)} of host memory"

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
        return f"weights of {bits} bits"

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
