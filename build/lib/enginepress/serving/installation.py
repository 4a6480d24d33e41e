"""Where the Triton server comes from, and what it needs around it.

A machine that serves for a living has `tritonserver` on PATH (NVIDIA's images). Everybody else has the one that the
nvidia-pytriton wheel carries, which runs on a CPU, but not as it lies there: its Python backend wants a stub program of the
right Python version beside it, with its run bit, and shared libraries from two folders. `prepare` makes that:

    <scratch>/backends/python/    libtriton_python.so, triton_python_backend_utils.py, triton_python_backend_stub

The interpreter inside the server ignores PYTHONPATH and takes the packages of the `python3` that stands first on PATH. That
very interpreter is asked beforehand what it has, because numpy 2 there corrupts every string that a model receives.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginepress.errors import ServerError
from enginepress.files import explain_os_error
from enginepress.process import die_with_parent

ENVIRONMENT = "ENGINEPRESS_TRITONSERVER"
MINIMUM_GLIBC = (2, 35)
STUB = "triton_python_backend_stub"

# What the interpreter inside the server would see. `-I` sees the same packages: no PYTHONPATH, no user's packages.
_PROBE = """
import json, os, sys, sysconfig
found = {
    "version": "%d.%d" % sys.version_info[:2],
    "library": "libpython%d.%d.so.1.0" % sys.version_info[:2],
    "library_folders": [sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")],
    "numpy": None, "numpy_file": None,
}
try:
    import numpy
    found["numpy"], found["numpy_file"] = numpy.__version__, numpy.__file__
except ImportError:
    pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Installation:
    """A tritonserver binary; `from_wheel` says that it is nvidia-pytriton's and needs preparing."""

    binary: Path
    from_wheel: bool


@dataclass(frozen=True)
class Launch:
    """How to start a server: the beginning of its command line, and its whole environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class PythonFacts:
    """What the interpreter that the server will use said about itself."""

    interpreter: Path
    version: str
    library: str
    library_folders: tuple[str, ...]
    numpy: str | None
    numpy_file: str | None


def find_installation(environment: Mapping[str, str] | None = None) -> Installation:
    """The server named by ENGINEPRESS_TRITONSERVER, else the one on PATH, else the wheel's.

    Raises:
        ServerError: if there is none, or if the named one cannot be run.
    """
    environment = os.environ if environment is None else environment
    wheel = _wheel_binary()
    named = environment.get(ENVIRONMENT)
    if named:
        if not (os.path.isfile(named) and os.access(named, os.X_OK)):
            raise ServerError(f"'{named}' is not a program that can be run", where=ENVIRONMENT, fix="name a tritonserver binary")
        found: str | None = named
    else:
        found = shutil.which("tritonserver", path=environment.get("PATH", os.defpath))
    binary = Path(found) if found else wheel
    if binary is None:
        raise ServerError(
            "no Triton server was found: neither `tritonserver` on PATH nor the one in the nvidia-pytriton package",
            fix=f"pip install 'enginepress[triton]', or set {ENVIRONMENT} to a tritonserver binary",
        )
    return Installation(binary, from_wheel=wheel is not None and binary.resolve() == wheel.resolve())


def prepare(
    installation: Installation, scratch: Path, *, python: Path | None = None, environment: Mapping[str, str] | None = None
) -> Launch:
    """Makes in `scratch` what the server needs, after checking that it can work here.

    Args:
        python: the interpreter whose packages the models shall see; ours by default. Only the wheel's server can be told.

    Raises:
        ServerError: if the C library is too old, or that Python has no stub, no shared library, no numpy, or numpy 2.
    """
    environment = os.environ if environment is None else environment
    if not installation.from_wheel:
        return Launch((str(installation.binary),), dict(environment))
    check_glibc(_glibc_version())
    env = _server_environment(python or Path(sys.executable), environment)
    facts = probe_python(env)
    home = installation.binary.resolve().parents[1]
    stub = home / "python_backend_stubs" / facts.version / STUB
    check_python(facts, known_versions=sorted(p.name for p in (home / "python_backend_stubs").iterdir()))
    libraries = [*facts.library_folders, str(home.parents[1] / "nvidia_pytriton.libs"), env.get("LD_LIBRARY_PATH", "")]
    env["LD_LIBRARY_PATH"] = os.pathsep.join(folder for folder in libraries if folder)
    backends = _make_backend_folder(home / "backends" / "python", stub, scratch / "backends")
    return Launch((str(installation.binary), f"--backend-directory={backends}"), env)


def probe_python(env: Mapping[str, str]) -> PythonFacts:
    """Asks the `python3` that is first on this environment's PATH, which the server will take.

    Raises:
        ServerError: if there is none, or if it does not run.
    """
    interpreter = shutil.which("python3", path=env["PATH"])
    if interpreter is None:
        raise ServerError("there is no `python3` on the server's PATH", fix="run enginepress from a virtual environment")
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", _PROBE],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            preexec_fn=die_with_parent,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise ServerError(
            f"the Python that the server would use does not run: {said[-1] if said else error}",
            where=interpreter,
            fix="mend or remove that environment, or take it off PATH",
        ) from None
    return PythonFacts(
        interpreter=Path(interpreter),
        version=found["version"],
        library=found["library"],
        library_folders=tuple(found["library_folders"]),
        numpy=found["numpy"],
        numpy_file=found["numpy_file"],
    )


def check_python(facts: PythonFacts, *, known_versions: list[str]) -> None:
    """Refuses an interpreter under which the wheel's server could not start or would damage requests."""
    where = str(facts.interpreter)
    if facts.version not in known_versions:
        raise ServerError(
            f"the Triton server of nvidia-pytriton has no Python backend for Python {facts.version}, "
            f"only for {', '.join(sorted(known_versions, key=_version_numbers))}",
            where=where,
            fix="use enginepress from a Python 3.11 or 3.12",
        )
    beside = any(os.path.exists(os.path.join(folder, facts.library)) for folder in facts.library_folders)
    if not beside and ctypes.util.find_library(f"python{facts.version}") is None:
        raise ServerError(
            f"this Python has no shared library {facts.library}, which Triton's Python backend needs",
            where=where,
            fix=f"install the package libpython{facts.version}, or a Python built with --enable-shared",
        )
    install = f"{facts.interpreter} -m pip install 'numpy>=1.26,<2'"
    if facts.numpy is None:
        raise ServerError("numpy is missing where the Triton server's models look for it", where=where, fix=install)
    if _version_numbers(facts.numpy)[:1] >= (2,):
        raise ServerError(
            f"the Triton server would see numpy {facts.numpy} ({facts.numpy_file}); numpy 2 corrupts strings under this server",
            where=where,
            fix=install,
        )


def check_glibc(version: str | None) -> None:
    """Refuses a C library older than the wheel's server was linked against; None means not glibc at all."""
    needed = ".".join(map(str, MINIMUM_GLIBC))
    if version is None or _version_numbers(version) < MINIMUM_GLIBC:
        has = f"glibc {version}" if version else "another C library"
        raise ServerError(
            f"the Triton server of nvidia-pytriton needs glibc {needed} or later; this machine has {has}",
            fix=f"use Debian 12, Ubuntu 22.04 or later, or set {ENVIRONMENT} to a tritonserver that runs here",
        )


def _glibc_version() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" else None


def _version_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _wheel_binary() -> Path | None:
    """nvidia-pytriton's server, found without importing the package."""
    spec = importlib.util.find_spec("pytriton")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            return binary
    return None


def _server_environment(python: Path, environment: Mapping[str, str]) -> dict[str, str]:
    env = {k: v for k, v in environment.items() if k not in ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP")}
    env["PATH"] = os.pathsep.join([str(python.parent), environment.get("PATH", os.defpath)])
    return env


def _make_backend_folder(source: Path, stub: Path, backends: Path) -> Path:
    """Copies the Python backend and the stub of one Python version together, runnable."""
    target = backends / "python"
    try:
        target.mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            shutil.copyfile(source / name, target / name)
        shutil.copyfile(stub, target / STUB)
        (target / STUB).chmod(0o755)
    except OSError as error:
        raise explain_os_error(error, "preparing the Triton server", ServerError) from None
    if not os.access(target / STUB, os.X_OK):
        raise ServerError(
            "programs cannot be run from this file system (mounted noexec), but Triton's Python backend is one",
            where=str(target),
            fix="set TMPDIR to a folder on another file system",
        )
    return backends
