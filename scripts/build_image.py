"""Builds an image for pipeline steps with podman or buildah, and says by which digest to name it.

    build_image.py trtllm --base nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3@sha256:… --tag SITE/enginepress-gpu:1
    build_image.py slim --base docker.io/library/python:3.11-slim@sha256:… --tag SITE/enginepress:1 --push

Needs no root where podman needs none. `--wheels DIR` takes all packages from that folder and none from an index, for sites that
have none. Plain Python, but for the wheel of enginepress, which pip builds.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"trtllm": "", "slim": "kfp,mlflow,s3"}
KFP = "2.17.0"
PINNED = re.compile(r".+@sha256:[0-9a-f]{64}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=sorted(EXTRAS))
    parser.add_argument("--base", required=True, help="image to build on, by its digest")
    parser.add_argument("--tag", required=True, help="name of the new image")
    parser.add_argument("--extras", help=f"of enginepress; default for slim: {EXTRAS['slim']}; trtllm: none")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of everything, instead of a package index")
    parser.add_argument("--unpinned", action="store_true", help="take a base without a digest, for trying")
    parser.add_argument("--push", action="store_true", help="push it, and print its name with the digest")
    parser.add_argument("--engine", choices=["podman", "buildah"], help="default: the first of them that is installed")
    parser.add_argument("--isolation", help="podman's and buildah's; `chroot` where containers cannot be started")
    arguments = parser.parse_args()
    if not PINNED.fullmatch(arguments.base) and not arguments.unpinned:
        sys.exit(
            f"{arguments.base} is not pinned: another image may have that name tomorrow. Write NAME@sha256:…, or say --unpinned."
        )
    engine = arguments.engine or next((e for e in ("podman", "buildah") if shutil.which(e)), None)
    if engine is None or shutil.which(engine) is None:
        sys.exit("neither podman nor buildah is installed; Debian: apt install podman")
    with tempfile.TemporaryDirectory(prefix="enginepress-image-") as folder:
        fill_context(Path(folder), arguments.wheels)
        extras = EXTRAS[arguments.variant] if arguments.extras is None else arguments.extras
        command = [engine, "build", "--pull=never" if arguments.unpinned else "--pull=missing"]
        command += [f"--isolation={arguments.isolation}"] if arguments.isolation else []
        for name, value in {"BASE": arguments.base, "EXTRAS": extras, "KFP": KFP}.items():
            command += ["--build-arg", f"{name}={value}"]
        command += ["--label", f"org.opencontainers.image.base.name={arguments.base}", "--tag", arguments.tag, folder]
        call(command, "the image was not built")
        if not arguments.push:
            print(f"built {arguments.tag}; --push sends it to its registry and prints its digest")
            return
        digest = Path(folder, "digest")
        call([engine, "push", "--digestfile", str(digest), arguments.tag], f"{arguments.tag} was built and not pushed")
        name = re.sub(r":[^/:]+$", "", arguments.tag)
        print(f"{name}@{digest.read_text().strip()}")


def call(command: list[str], failed: str) -> None:
    """Runs what writes its own errors to the terminal; a failure ends this script with one line below them."""
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(f"{failed}: {command[0]} ended with status {status}; what it says stands above")


def fill_context(folder: Path, wheels: Path | None) -> None:
    """Containerfile, installer and wheels."""
    shutil.copy(ROOT / "Containerfile", folder / "Containerfile")
    shutil.copy(ROOT / "scripts" / "install_into_image.py", folder)
    target = folder / "wheels"
    target.mkdir()
    for wheel in wheels.glob("*.whl") if wheels is not None else ():
        if not wheel.name.startswith("enginepress-"):
            shutil.copy(wheel, target)
    # Building a wheel leaves folders where it is built.
    source = folder / "source"
    for name in ("enginepress", "components", "pipelines", "model_repo_templates"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--wheel-dir",
        str(target),
    ]
    # Where setuptools is installed it is taken, so that a site without an index needs none for this.
    offline = ["--no-build-isolation"] if wheels is not None else []
    done = subprocess.run([*pip, *offline, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the wheel of enginepress could not be built:\n{done.stderr[-3000:]}")
    shutil.rmtree(source)


if __name__ == "__main__":
    main()
