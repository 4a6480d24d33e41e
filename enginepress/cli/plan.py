"""`enginepress plan`: what a recipe will take, and whether it fits, before anything is downloaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import json_option, recipe_argument

if TYPE_CHECKING:
    from rich.table import Table

    from enginepress.engines.fit import FitPlan
    from enginepress.engines.fit.cpu_plan import CpuPlan
    from enginepress.sources.glance import Glance
    from enginepress.steps.plan import GpuRow, PlanReport

GIB = 2**30


@click.command(short_help="Say what a recipe takes, and whether it fits its GPUs.")
@recipe_argument
@click.option("--gpu", metavar="NAME", help="Plan for this GPU instead of the recipe's; `all` compares all that are known.")
@click.option("--driver", metavar="VERSION", help="Driver of the machines, as nvidia-smi prints it: is it new enough?")
@json_option
def plan(recipe: Path, gpu: str | None, driver: str | None, as_json: bool) -> None:
    """Say what RECIPE takes: memory of each GPU, host and disk, container and driver; and whether it fits.

    Reads config.json and the sizes of files, and downloads nothing else. What does not fit is refused with the smallest
    changes that do. Activations, overhead and host memory are estimates.

    Exit status: 0 it fits, 2 it does not.
    """
    from enginepress.errors import EnginepressError
    from enginepress.recipe_file import load_recipe
    from enginepress.steps.plan import compare, plan_recipe

    loaded = load_recipe(recipe, need_reference=False)
    if gpu == "all":
        _show_all(compare(loaded, driver=driver), as_json=as_json)
        return
    try:
        report = plan_recipe(loaded, gpu=gpu, driver=driver)
    except EnginepressError as error:
        if as_json:  # a script gets an object in any case
            said = {"where": error.where, "message": error.message, "fix": error.fix}
            click.echo(json.dumps({"name": loaded.name, "fits": False, "error": said}, indent=2))
        raise
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(report)
    if report.refusal is not None:
        raise report.refusal


def _file_rows(table: Table, seen: Glance) -> None:
    total = sum(seen.files.values())
    table.add_row("taken", f"{len(seen.files)} files", _gib(total))
    if seen.unused:
        named = ", ".join(seen.unused[:4]) + (f" and {len(seen.unused) - 4} more" if len(seen.unused) > 4 else "")
        table.add_row("left there", f"{len(seen.unused)} files", named)


def _show(report: PlanReport) -> None:
    from enginepress.engines.fit.cpu_plan import CpuPlan

    click.echo(click.style(report.recipe.name, bold=True) + f"  {report.recipe.source.uri}")
    table = _grid()
    if isinstance(report.plan, CpuPlan):
        _cpu_rows(table, report.plan)
    else:
        _gpu_rows(table, report.plan)
    _file_rows(table, report.seen)
    _print(table)
    for note in report.plan.notes if not isinstance(report.plan, CpuPlan) else ():
        click.echo(click.style("note: ", fg="yellow") + note)
    if report.commands:
        click.echo(click.style("commands", bold=True))
        for line in report.commands:
            click.echo(f"  {line}")
    if report.plan.fits:
        click.echo(click.style("fits", fg="green", bold=True))


def _gpu_rows(table: Table, plan: FitPlan) -> None:
    from enginepress.engines import versions

    engine, container = plan.recipe.engine, plan.container
    nodes = engine.gpu.nodes if engine.gpu is not None else 1
    on = f"{plan.world_size} x {plan.gpu.name}" if plan.world_size > 1 else plan.gpu.name
    add = table.add_row
    add("model", f"{plan.shape.architecture}, {_parameters(plan.shape.parameters)}", "")
    plain = "32 bit" if engine.precision == "float32" else "16 bit"
    add("engine", f"{engine.builder} in {engine.precision}, KV cache in {engine.kv_cache or plain}", "")
    add("on", on + (f" on {nodes} nodes" if nodes > 1 else ""), f"SM {plan.gpu.sm}, {plan.gpu.architecture}")
    table.add_section()
    each = " a GPU" if plan.world_size > 1 else ""
    add("memory" + each, _gib(plan.memory), "as nvidia-smi says")
    add("- weights", _gib(plan.weights.rank), f"{_gib(plan.weights.ranks)} in all" if plan.world_size > 1 else "")
    add("- activations", _gib(plan.activations), f"estimate, for {plan.tokens} tokens in one pass")
    add("- overhead", _gib(plan.overhead), "estimate: driver, CUDA, runtime" + (", NCCL" if plan.world_size > 1 else ""))
    if plan.cache_pool > 0:
        add("= KV cache", _gib(plan.cache_pool), "what is left, times the share that the cache gets")
    else:
        add("= KV cache", "none", f"{_gib(-plan.cache_pool)} are missing")
    table.add_section()
    add("KV cache per token", f"{plan.cache.all_token / 1024:,.1f} KiB", _per_rank(plan, plan.cache.rank_token / 1024, "KiB"))
    add(
        "KV cache per request",
        f"{plan.request_all / GIB:.2f} GiB",
        f"{plan.sequence} tokens" + (f"; {plan.request / GIB:.2f} GiB a GPU" if plan.world_size > 1 else ""),
    )
    add("full requests at once", f"{plan.full_requests} of {plan.batch}", f"the most that fit: {plan.largest_batch}")
    add("longest prompt", f"{plan.longest_prompt} tokens", f"one pass takes {plan.tokens}")
    add("longest request", f"{plan.largest_sequence} tokens", f"the model was made for {plan.shape.context}")
    add("longest, all at once", f"{plan.largest_sequence_at_batch} tokens", f"{plan.batch} requests")
    table.add_section()
    add("checkpoint", _gib(plan.weights.checkpoint), "")
    add("host memory, convert", _gib(plan.host.convert_memory), "estimate" + _on_gpu(plan))
    add("host memory, build", _gib(plan.host.build_memory), "estimate")
    add("disk", _gib(plan.host.disk), f"and {_gib(plan.host.store)} a release in each store")
    table.add_section()
    size = f"{container.size_gb:g} GB, " if container.size_gb else ""
    add("image", container.image, f"{size}{container.holds}")
    oldest = versions.load_matrix().driver_for(container, plan.gpu)
    add("driver", f"{oldest} or newer" if oldest else "unknown", f"CUDA {container.cuda}; it came with {container.driver}")


def _per_rank(plan: FitPlan, number: float, unit: str) -> str:
    return f"{number:,.1f} {unit} a GPU" if plan.world_size > 1 else ""


def _on_gpu(plan: FitPlan) -> str:
    needed = plan.host.convert_gpu_memory
    return f"; quantizing needs {_gib(needed)} of GPU memory in all" if needed else ""


def _cpu_rows(table: Table, plan: CpuPlan) -> None:
    engine, add = plan.recipe.engine, table.add_row
    add("model", f"{plan.shape.architecture}, {_parameters(plan.shape.parameters)}", "")
    add("engine", f"{engine.builder} in {engine.precision}, on a CPU", "")
    table.add_section()
    add("checkpoint", _gib(plan.checkpoint), "")
    add("engine's size", _gib(plan.engine), "estimate")
    add("memory to build", _gib(plan.build_memory), "estimate")
    add(
        "memory to serve",
        _gib(plan.serve_memory),
        f"estimate, for {engine.limits.max_batch_size} requests of {plan.sequence} tokens",
    )
    add("KV cache", _gib(plan.cache), f"{plan.cache_token / 1024:,.1f} KiB a token")
    add("disk", _gib(plan.disk), f"estimate, and {_gib(plan.store)} a release in each store")


def _show_all(rows: list[GpuRow], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    table = _grid("GPU", "memory", "fits", "weights", "KV cache", "full requests", "longest request", "why not")
    for row in rows:
        plan = row.plan
        table.add_row(
            row.gpu.name,
            _gib(row.gpu.memory_bytes),
            "yes" if plan.fits else "no",
            _gib(plan.weights.rank),
            _gib(max(0, plan.cache_pool)),
            f"{plan.full_requests} of {plan.batch}" if plan.fits else "",
            str(plan.largest_sequence) if plan.fits else "",
            "" if plan.fits else plan.problems[0].message,
        )
    _print(table)


def _grid(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=bool(heads), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads or ("", "", ""):
        table.add_column(head, overflow="fold")
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    # A pipe has no width: nothing is folded there.
    Console(width=None if sys.stdout.isatty() else 250, highlight=False).print(table)


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} billion parameters" if count >= 1e8 else f"{count / 1e6:.2f} million parameters"


def _gib(number: float) -> str:
    """Small sizes in MiB, so that a toy model's are not all zero."""
    return f"{number / GIB:.2f} GiB" if abs(number) >= GIB / 10 else f"{number / 2**20:.1f} MiB"
