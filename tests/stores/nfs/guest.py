"""A small machine with a real NFSv4 server and client: QEMU, Debian's kernel, and a root file system of this machine's files.

Everything lies in the initial RAM disk, so neither a disk image nor a mount is needed, and root neither. Its first process starts
the server, mounts what it exports twice, as two machines would, and runs `tests.stores.nfs.program`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOOLS = ("rpc.nfsd", "rpc.mountd", "exportfs", "mount.nfs4")
PROGRAMS = ("qemu-system-x86_64", "busybox", "cpio", "ldd", *TOOLS)
DEBIAN = "apt install qemu-system-x86 linux-image-cloud-amd64 nfs-kernel-server busybox-static cpio kmod"
PACKAGES = ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "yaml")
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/bin HOME=/ LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp; mkdir -p /run /export /one /two /var/lib/nfs/v4recovery
mount -t tmpfs tmpfs /export; mount -t tmpfs tmpfs /run
ifconfig lo 127.0.0.1 up
for module in MODULES; do insmod $module; done
mount -t nfsd nfsd /proc/fs/nfsd; mkdir -p /var/lib/nfs/rpc_pipefs; mount -t rpc_pipefs pipefs /var/lib/nfs/rpc_pipefs
: > /var/lib/nfs/etab; : > /var/lib/nfs/rmtab
echo 5 > /proc/fs/nfsd/nfsv4leasetime; echo 1 > /proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,fsid=0,no_root_squash,insecure,no_subtree_check,sync 127.0.0.1:/export
mkdir /export/share
rpc.mountd -N 2 -N 3
rpc.nfsd -N 3 -V 4 -V 4.2 4
options=vers=4.2,nosharecache,actimeo=1
for folder in /one /two; do mount.nfs4 127.0.0.1:/share $folder -o $options || echo "FAILED mount of $folder"; done
cd /project && PYTHONPATH=/project:/packages PYTHONHOME=/usr /usr/bin/python3 -m tests.stores.nfs.program /one /two
echo "ENDED $?"
poweroff -f
"""


def missing() -> str | None:
    """Why there can be no such machine here, or None."""
    if platform.machine() != "x86_64":
        return "the guest is made for x86-64"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if lacking or _kernel() is None:
        return f"{', '.join(lacking) or 'a Debian cloud kernel'} is not installed ({DEBIAN})"
    return None


def _kernel() -> tuple[Path, Path] | None:
    """The newest cloud kernel, and the folder of its modules."""
    base = Path(os.environ.get("ENGINEPRESS_TEST_KERNEL", "/"))
    for image in sorted((base / "boot").glob("vmlinuz-*-cloud-amd64"), reverse=True):
        modules = base / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if (modules / "modules.dep").exists():
            return image, modules
    return None


def run_guest(folder: Path, timeout: float) -> list[str]:
    """What the machine wrote on its console, line by line.

    Raises:
        subprocess.TimeoutExpired: if it did not switch itself off.
    """
    found = _kernel()
    assert found is not None
    image, modules = found
    initrd = _initrd(folder, modules)
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "2048",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-monitor",
        "none",
    ]
    append = "console=ttyS0 panic=-1 quiet rdinit=/init"
    command += ["-kernel", str(image), "-initrd", str(initrd), "-append", append]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    return [line.strip() for line in done.stdout.decode(errors="replace").splitlines()]


def _initrd(folder: Path, modules: Path) -> Path:
    root = folder / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "packages", "project", "modules", "usr/bin", "usr/sbin", "usr/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox", path=SEARCH) or "", root / "bin/busybox")
    binaries = [_copied(shutil.which(tool, path=SEARCH) or "", root / "usr/sbin" / tool) for tool in TOOLS]
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    binaries.append(_copied(python, root / "usr/bin/python3"))
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = shutil.ignore_patterns("test", "tests", "__pycache__", "idlelib", "tkinter", "ensurepip", "*-packages", "config-*")
    shutil.copytree(library, root / "usr/lib" / library.name, ignore=skipped, dirs_exist_ok=True)
    for package in PACKAGES:
        _copy_package(package, root / "packages")
    shutil.copytree(ROOT / "enginepress", root / "project/enginepress", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/__init__.py", "tests/stores"):
        source, target = ROOT / name, root / "project" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _ = shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    binaries += root.rglob("*.so")
    _copy_libraries(binaries, root)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/exports").touch()
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for name in ("netconfig", "services", "protocols"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    listed = " ".join(_copy_modules(modules, root / "modules"))
    (root / "init").write_text(INIT.replace("MODULES", listed))
    (root / "init").chmod(0o755)
    target = folder / "initrd"
    with open(target, "wb") as stream:
        pack = "find . -print0 | cpio --null --create --format=newc --quiet --owner=0:0"
        subprocess.run(["sh", "-c", pack], cwd=root, stdout=stream, check=True)
    return target


def _copied(source: str | Path, target: Path) -> Path:
    shutil.copy(os.path.realpath(source), target)
    return target


def _copy_package(name: str, target: Path) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin)
    if source.name == "__init__.py":
        shutil.copytree(source.parent, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _copy_libraries(binaries: Iterable[Path], root: Path) -> None:
    """What the dynamic linker looks for, under the same paths."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    for path in sorted(set(re.findall(r"(/\S+\.so\S*) \(", done.stdout))):
        if path.startswith(str(root)):
            continue
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), target)


def _copy_modules(modules: Path, target: Path) -> list[str]:
    """nfsd, the NFSv4 client and what they need, in the order in which they are loaded; their paths in the guest."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[name] = others.split()
    order: list[str] = []
    for wanted in ("nfsd", "nfsv4"):
        path = next(name for name in needs if Path(name).name.split(".")[0] == wanted)
        for name in (*reversed(needs[path]), path):
            if name not in order:
                order.append(name)
    for name in order:
        shutil.copy(modules / name, target)
    return [f"/modules/{Path(name).name}" for name in order]
