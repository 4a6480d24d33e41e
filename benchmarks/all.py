"""Runs benchmarks, all or those that are named, and writes docs/benchmarks.md.

    python -m benchmarks.all [PART …] [--triton-cli PATH] [--folder DIR]

Each part measures both sides of its ratios in one run, in turns. What a part found is kept in benchmarks/results.json, so that
measuring one again leaves the others in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import modelopt, s3_publish
from benchmarks.command_line import help_times, plan_times, up_to_date_times
from benchmarks.compile import compile_times
from benchmarks.downloads import rows as rows_of_downloads
from benchmarks.full_run import FullRun, full_runs, median_run, private_copy
from benchmarks.outdated import outdated_times
from benchmarks.publish import rows as rows_of_publish
from benchmarks.render import LIMIT_MS, render_ms
from benchmarks.serving import STREAMS, ServingTimes, serving_times
from benchmarks.submit import submit_times
from benchmarks.watch import watch_times

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "recipes" / "laptop.yaml"
RESULTS = ROOT / "benchmarks" / "results.json"

Rows = list[tuple[str, ...]]
HEAD = ("what", "measured", "against", "ratio", "wanted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--triton-cli", help="the `triton` command of a triton_cli installation, to compare with")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "benchmarks", help="keeps the benchmark model")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.parts or PARTS:
        print(f"{name} ...", file=sys.stderr)
        results[name] = PARTS[name](arguments)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs" / "benchmarks.md").write_text(_page(results))
    print((ROOT / "docs" / "benchmarks.md").read_text())


def _command_line(arguments: argparse.Namespace) -> Rows:
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
    plan = plan_times(site)
    return [
        ("`enginepress --help`, whole process", str(ours), against, ratio, "at most 0.4 s"),
        (
            "`enginepress run` with nothing to do, whole process",
            str(nothing),
            f"a process that only imports kfp and mlflow: {imports}",
            f"{nothing.median / imports.median:.2f}",
            "at most 1.5 s",
        ),
        ("`enginepress plan` of a recipe for a GPU, whole process", str(plan), "not compared here", "", "at most 0.6 s"),
    ]


def _render(_: argparse.Namespace) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        times = render_ms(Path(folder))
    measured = f"{statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})"
    what = "rendering and validating a tensorrt_llm repository of five models, in process"
    return [(what, measured, "not compared here", "", f"at most {LIMIT_MS} ms")]


def _compile(arguments: argparse.Namespace) -> Rows:
    times = compile_times(arguments.folder / "compiled")
    ours, other = times["compile"], times["import kfp"]
    what = "`enginepress compile`, both pipelines, whole process"
    return [(what, str(ours), f"a process that only imports kfp: {other}", f"{ours.median / other.median:.2f}", "at most 2 s")]


def _outdated(_: argparse.Namespace) -> Rows:
    times = outdated_times()
    what = f"`enginepress outdated` over {times.sources:,} sources, whole process"
    each = f"{times.requests_each:g} request a source"
    return [
        (f"{what}, for the first time", str(times.first), each, "", "at most 10 s, 1 request each"),
        (f"{what}, nothing has moved", str(times.unchanged), each, "", "at most 10 s, 1 request each"),
    ]


def _watch(_: argparse.Namespace) -> Rows:
    times = watch_times()
    what = f"`enginepress watch --once` over {times.recipes:,} recipes with nothing to do, whole process"
    return [(what, f"{times.seconds}; {times.mib:.0f} MiB", "not compared here", "", "at most 15 s, 250 MiB")]


def _downloads(arguments: argparse.Namespace) -> Rows:
    return [
        (what, measured, "see benchmarks/downloads.py", ratio, wanted)
        for what, measured, ratio, wanted in rows_of_downloads(arguments.folder / "downloads", 5)
    ]


def _publish(arguments: argparse.Namespace) -> Rows:
    return rows_of_publish(arguments.folder / "publish", 7)


def _full_run(_: argparse.Namespace) -> Rows:
    run: FullRun = median_run(full_runs(RECIPE))
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run.steps.items())
    rest = f"the rest, {run.seconds - run.work:.1f} s: starting the command, kfp, and for each task a shell and an interpreter"
    return [
        (
            "`enginepress run` of the example from nothing",
            f"{run.seconds:.1f} s ({steps}; {rest})",
            f"the sum of its steps' own work: {run.work:.1f} s",
            f"{run.ratio:.2f}",
            "at most 1.2",
        )
    ]


def _serving(arguments: argparse.Namespace) -> Rows:
    times: ServingTimes = serving_times(arguments.folder)
    direct, library, single, eight = (times.median(n) for n in ("direct", "library", "single", "eight"))
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
        (
            "one stream through Triton",
            f"{single:.1f} tokens/s",
            f"the engine called directly, with the library's own number of threads: {library:.1f} tokens/s",
            f"{single / library:.2f}",
            "",
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


def _s3_publish(arguments: argparse.Namespace) -> Rows:
    return s3_publish.rows(arguments.folder / "s3")


def _modelopt(arguments: argparse.Namespace) -> Rows:
    return modelopt.rows(arguments.folder)


def _submit(_: argparse.Namespace) -> Rows:
    times = submit_times()
    against = f"`kfp run create` with a compiled file: {times.kfp}"
    ratio = f"{times.ours.median / times.kfp.median:.2f}"
    cold = f"{times.compiling.median / times.kfp.median:.2f}"
    return [
        ("`enginepress submit` up to the run, whole process", str(times.ours), against, ratio, "at most 1.5"),
        ("the same where the pipeline is compiled first", str(times.compiling), against, cold, ""),
    ]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "command_line": _command_line,
    "full_run": _full_run,
    "serving": _serving,
    "downloads": _downloads,
    "publish": _publish,
    "outdated": _outdated,
    "watch": _watch,
    "render": _render,
    "modelopt": _modelopt,
    "compile": _compile,
    "submit": _submit,
    "s3_publish": _s3_publish,
}


def _page(results: dict[str, Rows]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(row) + " |" for name in PARTS for row in results.get(name, [])]
    return f"""# Benchmarks

Written by `python -m benchmarks.all` on {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}.
Medians, measured in alternating order; ratios carry further than seconds. `benchmarks/` says how each was measured.

{chr(10).join(lines)}
"""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
