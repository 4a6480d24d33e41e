"""Installs enginepress and kfp's executor into an image without changing a package of its base. Runs in the image; plain Python.

kfp itself is installed without its requirements: a step needs its executor only, and kfp pins packages that NVIDIA's images hold
in other versions. With the extra `kfp` all of it is installed, for images that run pipelines themselves, as the watcher does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PIP = [sys.executable, "-m", "pip"]
QUIET = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--root-user-action=ignore"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder with enginepress's wheel, and with all others or none")
    parser.add_argument("--extras", default="", help="of enginepress, with commas between")
    parser.add_argument("--kfp", required=True, help="version")
    arguments = parser.parse_args()
    os.environ["PIP_BREAK_SYSTEM_PACKAGES"] = "1"  # the image is ours; Debian's marker is for machines that are somebody's
    ours = next(arguments.wheels.glob("enginepress-*.whl"))
    # Alone there, the others come from the package index.
    alone = len(list(arguments.wheels.glob("*.whl"))) == 1
    where = [] if alone else ["--no-index", f"--find-links={arguments.wheels}"]
    before = packages()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as held:
        held.write("".join(f"{name}=={version}\n" for name, version in {**before, "kfp": arguments.kfp}.items()))
        held.flush()
        extras = f"[{arguments.extras}]" if arguments.extras else ""
        run("install", *QUIET, *where, "--constraint", held.name, f"enginepress{extras} @ {ours.resolve().as_uri()}")
        run("install", *QUIET, *where, "--no-deps", f"kfp=={arguments.kfp}")
    after = packages()
    changed = [f"{name} {version} -> {after.get(name, 'gone')}" for name, version in before.items() if after.get(name) != version]
    if changed:
        sys.exit("packages of the base image were changed: " + ", ".join(changed))
    probe = "import kfp.dsl.executor_main, enginepress.steps.task, enginepress.recipe_file"
    subprocess.run([sys.executable, "-c", probe], check=True, env={**os.environ, "_KFP_RUNTIME": "true"})


def packages() -> dict[str, str]:
    """Name -> version of everything that is installed."""
    done = subprocess.run(
        [*PIP, "list", "--format=json", "--disable-pip-version-check"], check=True, capture_output=True, text=True
    )
    return {p["name"].lower(): p["version"] for p in json.loads(done.stdout)}


def run(*arguments: str) -> None:
    done = subprocess.run([*PIP, *arguments], check=False)
    if done.returncode:
        sys.exit(f"pip {' '.join(arguments)}: exit status {done.returncode}")


if __name__ == "__main__":
    main()
