"""What `enginepress submit` costs up to the run on Kubeflow, beside `kfp run create` with a file that is compiled already.

Both are whole processes against the recording API of tests/kfp_api, which runs as another process on this machine and answers
at once. Ours reads and plans the recipe, takes the pipeline from its cache, finds its version on the server, looks whether the
same is being built, and submits. Without anything in the cache it compiles first: that is measured, too.

    python -m benchmarks.submit [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Times, in_turns

ROOT = Path(__file__).parents[1]
KFP = str(Path(sys.executable).parent / "kfp")


@dataclass(frozen=True)
class SubmitTimes:
    """Seconds of whole processes."""

    ours: Times
    kfp: Times
    compiling: Times


def submit_times(rounds: int = 7) -> SubmitTimes:
    """Times both commands against a server of their own.

    Raises:
        RuntimeError: if a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.submit", "--serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            return _measured(site, server.stdout.readline().strip(), rounds)
        finally:
            server.communicate()


def _measured(site: Path, host: str, rounds: int) -> SubmitTimes:
    recipe = site / "tiny.yaml"
    source = ROOT / "examples" / "checkpoints" / "tiny-llama"
    recipe.write_text(
        json.dumps(
            {
                "name": "tiny",
                "source": f"file://{source}",
                "engine": {"builder": "tensorrt_llm", "precision": "float16", "gpu": {"name": "L4"}},
                "checks": {"prompts": [{"text": "The"}]},
                "stores": ["s3://models/releases"],
            }
        )
    )
    environment = {"XDG_CACHE_HOME": str(site / "cache"), "HOME": str(site), "KF_PIPELINES_ENDPOINT": host}
    environment["ENGINEPRESS_IMAGE"] = "registry.example/enginepress@sha256:" + "0" * 64
    mount = ["--mount", f"checkpoints:{source.parent}"]
    run = [sys.executable, "-m", "enginepress", "submit", str(recipe), *mount, "--again"]
    compiled = [sys.executable, "-m", "enginepress", "compile", "-o", str(site / "compiled"), *mount]
    whole = {**os.environ, **environment}
    for command in (compiled, [*run, "--dry-run"]):
        done = subprocess.run(command, capture_output=True, text=True, env=whole, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[3]} failed: {done.stderr[-2000:]}")
    parameter = _recipe_parameter(done.stdout)
    file = str(site / "compiled" / "build_and_publish.yaml")
    commands = {
        "kfp": [KFP, "run", "create", "-e", "enginepress", "-r", "tiny", "-f", file, parameter],
        "ours": [*run, "--no-follow"],
    }
    times = in_turns(commands, rounds=rounds, env=environment)
    cold = in_turns(
        {"cold": [sys.executable, "-c", _COLD, str(site / "cache"), *run[1:], "--no-follow"]}, rounds=3, env=environment
    )
    return SubmitTimes(times["ours"], times["kfp"], cold["cold"])


_COLD = """
import os, shutil, sys
shutil.rmtree(sys.argv[1], ignore_errors=True)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def _recipe_parameter(command: str) -> str:
    import shlex

    return next(word for word in shlex.split(command) if word.startswith("recipe="))


def _serve() -> None:
    """The recording API, until our input ends."""
    from tests.kfp_api.server import KfpApi

    with KfpApi() as server:
        print(server.url, flush=True)
        ended = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve()
        return
    if shutil.which(KFP) is None:
        sys.exit("kfp's command line is not installed: pip install 'enginepress[kfp]'")
    times = submit_times(arguments.rounds)
    print(f"enginepress submit: {times.ours}, kfp run create: {times.kfp}, ratio {times.ours.median / times.kfp.median:.2f}")
    print(f"enginepress submit that compiles first: {times.compiling}")


if __name__ == "__main__":
    main()
