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

    from enginepress.steps.plan import GpuRow, PlanReport


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


def _show(report: PlanReport) -> None:
    from enginepress.engines.fit.cpu_plan import CpuPlan
    from enginepress.report.plan_rows import file_section, plan_sections

    click.echo(click.style(report.recipe.name, bold=True) + f"  {report.recipe.source.uri}")
    table = _grid()
    *sections, last = plan_sections(report.plan)
    for section in sections:
        for row in section:
            table.add_row(*row)
        table.add_section()
    for row in [*last, *file_section(report.seen)]:
        table.add_row(*row)
    _print(table)
    for note in report.plan.notes if not isinstance(report.plan, CpuPlan) else ():
        click.echo(click.style("note: ", fg="yellow") + note)
    if report.commands:
        click.echo(click.style("commands", bold=True))
        for line in report.commands:
            click.echo(f"  {line}")
    if report.plan.fits:
        click.echo(click.style("fits", fg="green", bold=True))


def _show_all(rows: list[GpuRow], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    from enginepress.quantities import memory_text

    table = _grid("GPU", "memory", "fits", "weights", "KV cache", "full requests", "longest request", "why not")
    for row in rows:
        plan = row.plan
        table.add_row(
            row.gpu.name,
            memory_text(row.gpu.memory_bytes),
            "yes" if plan.fits else "no",
            memory_text(plan.weights.rank),
            memory_text(max(0, plan.cache_pool)),
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
