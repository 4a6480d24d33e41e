"""The Containerfile, built for real on a base that is made here: what is added works for any uid, what was there stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE, TAG = "localhost/enginepress-test-base", "localhost/enginepress-test"
HELD = "tqdm==4.66.1"
"""A package that the base has in a version of its own, as NVIDIA's images have many."""

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1500)]


class Buildah:
    """buildah with a storage of its own, so that the machine's images are left alone."""

    def __init__(self, folder: Path) -> None:
        configuration = folder / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n', encoding="utf-8"
        )
        self.env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(configuration), "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str | Path, check: bool = True) -> str:
        done = subprocess.run(["buildah", *map(str, arguments)], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr[-3000:]
        return done.stdout.strip()


def _require_tools() -> None:
    if os.geteuid() != 0:
        pytest.skip("debootstrap and buildah's chroot isolation need root")
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt install {tool})")
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the base is Debian 12, whose Python is 3.11, and the wheels are made with this Python")


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    _require_tools()
    folder = tmp_path_factory.mktemp("containers")
    yield Buildah(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What enginepress's core and kfp's executor need, and the package that the base holds back."""
    _require_tools()
    folder = tmp_path_factory.mktemp("wheels")
    wanted = ["huggingface-hub", "pydantic", "pyyaml", "rich", "tritonclient[grpc]", "protobuf"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--prefer-binary", "--dest", str(folder)]
    held = subprocess.run([*pip, "--no-deps", HELD], capture_output=True, text=True, check=False)
    done = subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *wanted], capture_output=True, text=True, check=False)
    if held.returncode or done.returncode:
        pytest.skip(f"packages cannot be had from an index: {(held.stderr + done.stderr)[-300:]}")
    # kfp is published as source only.
    pip[3:4] = ["wheel"]
    subprocess.run([*pip[:-2], "--no-deps", "--wheel-dir", str(folder), "kfp==2.17.0"], capture_output=True, check=True)
    return folder


@pytest.fixture(scope="module")
def base(buildah: Buildah, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian 12 with Python, pip and one package of its own: a stand-in for NVIDIA's image, which is 20 GB."""
    root = tmp_path_factory.mktemp("base") / "root"
    packages = "--include=python3,python3-pip,ca-certificates"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"debootstrap could not make a base: {done.stdout[-300:]}")
    (wheel,) = wheels.glob("tqdm-4.66.1-*.whl")
    shutil.copy(wheel, root / "tmp")
    inside = ["chroot", str(root), "python3", "-m", "pip", "install", "-q", "--break-system-packages", "--no-index"]
    subprocess.run([*inside, "--no-deps", f"/tmp/{wheel.name}"], check=True)
    container = buildah("from", "scratch")
    buildah("copy", container, root, "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(root, ignore_errors=True)
    return BASE


@pytest.fixture(scope="module")
def built(buildah: Buildah, base: str, wheels: Path) -> str:
    script = [sys.executable, str(ROOT / "scripts" / "build_image.py"), "trtllm", "--base", base, "--unpinned", "--tag", TAG]
    done = subprocess.run(
        [*script, "--wheels", str(wheels), "--engine", "buildah", "--isolation", "chroot"],
        env=buildah.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return TAG


@pytest.fixture(scope="module")
def container(buildah: Buildah, built: str) -> str:
    return buildah("from", "--pull-never", built)


def _inside(buildah: Buildah, container: str, *command: str) -> str:
    """As an arbitrary uid of group 0, which is how OpenShift runs it."""
    return buildah("run", "--isolation=chroot", "--user", "1000650000:0", container, "--", *command)


def test_the_image_says_who_it_runs_as_and_where(buildah: Buildah, built: str) -> None:
    config = json.loads(buildah("inspect", "--type=image", built))["OCIv1"]["config"]
    assert config["User"] == "1001:0"
    assert "HOME=/tmp" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.base.name"] == BASE


def test_kfps_executor_finds_our_steps_there(buildah: Buildah, container: str) -> None:
    program = "import kfp.dsl.executor_main, enginepress.steps.task as t; print(t.step_task.__name__)"
    assert _inside(buildah, container, "env", "_KFP_RUNTIME=true", "python3", "-c", program).splitlines()[-1] == "step_task"
    assert _inside(buildah, container, "enginepress", "--version").startswith("enginepress")


def test_packages_of_the_base_are_as_they_were(buildah: Buildah, container: str) -> None:
    listed = _inside(buildah, container, "python3", "-m", "pip", "list", "--format=json")
    versions = {p["name"].lower(): p["version"] for p in json.loads(listed[listed.index("[") :])}
    assert f"tqdm=={versions['tqdm']}" == HELD
    assert buildah("run", "--isolation=chroot", container, "--", "ls", "/opt/enginepress").split() == ["install_into_image.py"]


def test_a_real_step_runs_there_as_anybody(buildah: Buildah, container: str, tmp_path: Path) -> None:
    """resolve, by kfp's executor's own entry, with the example's recipe for a GPU, whose plan needs no GPU."""
    program = f"""
import json, os
os.makedirs('/tmp/w', exist_ok=True)
os.environ['ENGINEPRESS_CLUSTER'] = {json.dumps(json.dumps(_cluster()))}
from enginepress.steps.task import resolve_task
recipe = {{'name': 'tiny', 'source': {{'uri': 'file:///tmp/checkpoint'}}, 'stores': [{{'url': 'file:///tmp/store'}}],
          'engine': {{'builder': 'vllm', 'precision': 'float16', 'gpu': {{'name': 'L4'}}}}}}
found = resolve_task(json.dumps(recipe), '', 'run', False, 'light', 'heavy')
print('found', found[13], found[17], found[7])
"""
    buildah("copy", "--chown", "0:0", container, ROOT / "examples" / "checkpoints" / "tiny-llama", "/tmp/checkpoint")
    said = _inside(buildah, container, "python3", "-c", program)
    assert said.splitlines()[-1] == "found heavy 1 light"


def _cluster() -> dict[str, object]:
    return {
        "workspace": "/tmp/w",
        "mounts": ["/tmp"],
        "scratch": 2**40,
        "shared_memory": 2**40,
        "secrets": [],
        "image_prefix": "",
    }


def test_a_base_without_a_digest_is_refused() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "build_image.py"), "slim", "--base", "python:3.11-slim", "--tag", "x"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not pinned" in done.stderr
