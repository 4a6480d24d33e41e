"""Runs every benchmark and writes docs/benchmarks.md.

python -m benchmarks.all [--triton-cli PATH] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from benchmarks import modelopt
from benchmarks.command_line import help_times, up_to_date_times
from benchmarks.downloads import rows as rows_of_downloads
from benchmarks.full_run import FullRun, full_runs, median_run, private_copy
from benchmarks.outdated import outdated_times
from benchmarks.serving import STREAMS, ServingTimes, serving_times

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "recipes" / "laptop.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triton-cli", help="the `triton` command of a triton_cli installation, to compare with")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "benchmarks", help="keeps the benchmark model")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [("what", "measured", "against", "ratio", "wanted")]
    rows += _command_line(arguments)
    rows += _outdated()
    rows += _downloads(arguments.folder)
    runs = full_runs(RECIPE)
    rows += _full_run(median_run(runs))
    rows += _serving(serving_times(arguments.folder))
    rows += modelopt.rows(arguments.folder)
    (ROOT / "docs" / "benchmarks.md").write_text(_page(rows, median_run(runs), shlex.join(["python", "-m", "benchmarks.all"])))
    print((ROOT / "docs" / "benchmarks.md").read_text())


def _command_line(arguments: argparse.Namespace) -> list[tuple[str, ...]]:
    helps = help_times(arguments.triton_cli)
    ours = helps["enginepress --help"]
    other = helps.get("triton --help")
    against = f"triton_cli: {other}" if other else "not compared here"
    ratio = f"{ours.median / other.median:.2f}" if other else ""
    site = arguments.folder / "up-to-date"
    site.mkdir(exist_ok=True)
    recipe = private_copy(RECIPE, site)
    first = [sys.executable, "-m", "enginepress", "run", str(recipe), "-w", str(site / "w")]
    subprocess.run(first, check=True, capture_output=True)
    times = up_to_date_times(recipe, site / "w")
    nothing, imports = times["enginepress run (up to date)"], times["import kfp, mlflow"]
    return [
        ("`enginepress --help`, whole process", str(ours), against, ratio, "at most 0.4 s"),
        (
            "`enginepress run` with nothing to do, whole process",
            str(nothing),
            f"a process that only imports kfp and mlflow: {imports}",
            f"{nothing.median / imports.median:.2f}",
            "at most 1.5 s",
        ),
    ]


def _outdated() -> list[tuple[str, ...]]:
    times = outdated_times()
    what = f"`enginepress outdated` over {times.sources:,} sources, whole process"
    each = f"{times.requests_each:g} request a source"
    return [
        (f"{what}, for the first time", str(times.first), each, "", "at most 10 s, 1 request each"),
        (f"{what}, nothing has moved", str(times.unchanged), each, "", "at most 10 s, 1 request each"),
    ]


def _downloads(folder: Path) -> list[tuple[str, ...]]:
    return [
        (what, measured, "see benchmarks/downloads.py", ratio, wanted)
        for what, measured, ratio, wanted in rows_of_downloads(folder / "downloads", 5)
    ]


def _full_run(run: FullRun) -> list[tuple[str, ...]]:
    return [
        (
            "`enginepress run` of the example from nothing",
            f"{run.seconds:.1f} s",
            f"the sum of its steps' own work: {run.work:.1f} s",
            f"{run.ratio:.2f}",
            "at most 1.2",
        )
    ]


def _serving(times: ServingTimes) -> list[tuple[str, ...]]:
    direct, single, eight = (times.median(n) for n in ("direct", "single", "eight"))
    short = times.median("short_beside_long")
    ratios = [s / d for s, d in zip(times.single, times.direct, strict=True)]
    return [
        (
            "one stream through Triton",
            f"{single:.1f} tokens/s",
            f"the engine called directly: {direct:.1f} tokens/s",
            f"{single / direct:.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})",
            "at least 0.9",
        ),
        (f"{STREAMS} streams at a time, together", f"{eight:.1f} tokens/s", "one stream", f"{eight / single:.2f}", "at least 2"),
        (
            "a 4-token request beside a 200-token one",
            f"{short:.1%} of its time",
            "the 200-token request",
            f"{short:.3f}",
            "at most 0.1",
        ),
    ]


def _page(rows: list[tuple[str, ...]], run: FullRun, command: str) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(r) + " |" for r in body)]
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run.steps.items())
    return f"""# Benchmarks

One run of `{command}` on {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}.
Medians, measured in alternating order; ratios carry further than seconds. `benchmarks/` says how each was measured.

{chr(10).join(lines)}

The full run's steps, in seconds: {steps}.
The rest, {run.seconds - run.work:.1f} s, is starting the command and importing kfp, and for each of the nine tasks a shell, an
interpreter and kfp's executor.
"""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
