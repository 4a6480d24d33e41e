"""The rows of a plan in words and units, for the command line and notebooks. Nothing in them is text of a stranger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginepress.quantities import memory_text

if TYPE_CHECKING:
    from enginepress.engines.fit import FitPlan
    from enginepress.engines.fit.cpu_plan import CpuPlan
    from enginepress.sources.glance import Glance

Section = list[tuple[str, str, str]]
"""What it is, how much, and what else there is to know."""


def plan_sections(plan: FitPlan | CpuPlan) -> list[Section]:
    """The plan in reading order; what belongs together is one section."""
    from enginepress.engines.fit.cpu_plan import CpuPlan

    return _cpu_sections(plan) if isinstance(plan, CpuPlan) else _gpu_sections(plan)


def file_section(seen: Glance) -> Section:
    """Which files of the checkpoint are taken, and which are left."""
    rows = [("taken", _files(len(seen.files)), memory_text(sum(seen.files.values())))]
    if seen.unused:
        named = ", ".join(seen.unused[:4]) + (f" and {len(seen.unused) - 4} more" if len(seen.unused) > 4 else "")
        rows.append(("left there", _files(len(seen.unused)), named))
    return rows


def _gpu_sections(plan: FitPlan) -> list[Section]:
    from enginepress.engines import versions

    engine, container = plan.recipe.engine, plan.container
    nodes = engine.gpu.nodes if engine.gpu is not None else 1
    on = f"{plan.world_size} x {plan.gpu.name}" if plan.world_size > 1 else plan.gpu.name
    sections: list[Section] = [[]]

    def add(name: str, much: str, note: str) -> None:
        sections[-1].append((name, much, note))

    add("model", f"{plan.shape.architecture}, {_parameters(plan.shape.parameters)}", "")
    plain = "32 bit" if engine.precision == "float32" else "16 bit"
    add("engine", f"{engine.builder} in {engine.precision}, KV cache in {engine.kv_cache or plain}", "")
    add("on", on + (f" on {nodes} nodes" if nodes > 1 else ""), f"SM {plan.gpu.sm}, {plan.gpu.architecture}")
    sections.append([])
    each = " a GPU" if plan.world_size > 1 else ""
    add("memory" + each, memory_text(plan.memory), "as nvidia-smi says")
    add("- weights", memory_text(plan.weights.rank), f"{memory_text(plan.weights.ranks)} in all" if plan.world_size > 1 else "")
    if plan.draft is not None and plan.draft.shape is not None:
        add("- draft model", memory_text(plan.draft_weights), f"{plan.draft.folder}; its KV cache is counted below")
    if plan.adapters is not None and plan.adapters.before:
        add("- LoRA adapters", memory_text(plan.adapters.bytes), f"room for {plan.adapters.count} of rank {plan.adapters.rank}")
    add("- activations", memory_text(plan.activations), f"estimate, for {plan.tokens} tokens in one pass")
    add("- overhead", memory_text(plan.overhead), "estimate: driver, CUDA, runtime" + (", NCCL" if plan.world_size > 1 else ""))
    if plan.cache_pool > 0:
        add("= KV cache", memory_text(plan.cache_pool), "what is left, times the share that the cache gets")
    else:
        add("= KV cache", "none", f"{memory_text(-plan.cache_pool)} are missing")
    if plan.adapters is not None and not plan.adapters.before:
        note = f"of what the KV cache leaves; room for {plan.adapters.count} of rank {plan.adapters.rank}"
        add("LoRA adapters", memory_text(plan.adapters.bytes), note)
    sections.append([])
    add("KV cache per token", f"{plan.cache.all_token / 1024:,.1f} KiB", _per_rank(plan, plan.cache.rank_token / 1024, "KiB"))
    add(
        "KV cache per request",
        memory_text(plan.request_all),
        f"{plan.sequence} tokens" + (f"; {memory_text(plan.request)} a GPU" if plan.world_size > 1 else ""),
    )
    add("full requests at once", f"{plan.full_requests} of {plan.batch}", f"the most that fit: {plan.largest_batch}")
    add("longest prompt", f"{plan.longest_prompt} tokens", f"one pass takes {plan.tokens}")
    add("longest request", f"{plan.largest_sequence} tokens", f"the model was made for {plan.shape.context}")
    add("longest, all at once", f"{plan.largest_sequence_at_batch} tokens", f"{plan.batch} requests")
    sections.append([])
    add("checkpoint", memory_text(plan.weights.checkpoint), "")
    add("host memory, convert", memory_text(plan.host.convert_memory), "estimate" + _on_gpu(plan))
    add("host memory, build", memory_text(plan.host.build_memory), "estimate")
    add("disk", memory_text(plan.host.disk), f"and {memory_text(plan.host.store)} a release in each store")
    sections.append([])
    size = f"{container.size_gb:g} GB, " if container.size_gb else ""
    add("image", container.image, f"{size}{container.holds}")
    oldest = versions.load_matrix().driver_for(container, plan.gpu)
    add("driver", f"{oldest} or newer" if oldest else "unknown", f"CUDA {container.cuda}; it came with {container.driver}")
    return sections


def _per_rank(plan: FitPlan, number: float, unit: str) -> str:
    return f"{number:,.1f} {unit} a GPU" if plan.world_size > 1 else ""


def _on_gpu(plan: FitPlan) -> str:
    needed = plan.host.convert_gpu_memory
    return f"; quantizing needs {memory_text(needed)} of GPU memory in all" if needed else ""


def _cpu_sections(plan: CpuPlan) -> list[Section]:
    engine = plan.recipe.engine
    sections: list[Section] = [[]]

    def add(name: str, much: str, note: str) -> None:
        sections[-1].append((name, much, note))

    add("model", f"{plan.shape.architecture}, {_parameters(plan.shape.parameters)}", "")
    add("engine", f"{engine.builder} in {engine.precision}, on a CPU", "")
    sections.append([])
    add("checkpoint", memory_text(plan.checkpoint), "")
    add("engine's size", memory_text(plan.engine), "estimate")
    add("memory to build", memory_text(plan.build_memory), "estimate")
    add(
        "memory to serve",
        memory_text(plan.serve_memory),
        f"estimate, for {engine.limits.max_batch_size} requests of {plan.sequence} tokens",
    )
    add("KV cache", memory_text(plan.cache), f"{plan.cache_token / 1024:,.1f} KiB a token")
    add("disk", memory_text(plan.disk), f"estimate, and {memory_text(plan.store)} a release in each store")
    return sections


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} billion parameters" if count >= 1e8 else f"{count / 1e6:.2f} million parameters"
