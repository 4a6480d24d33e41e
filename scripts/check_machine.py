"""Says, before anything is downloaded, whether this machine can run the laptop default. Plain Python, no packages."""

from __future__ import annotations

import os
import platform
import shutil
import sys

NEEDED_GIB = 8


def problems() -> list[str]:
    found = []
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        found.append(
            f"Python {platform.python_version()} is not 3.11 or 3.12. Install one (Debian 12: apt install python3 python3-venv; "
            "Ubuntu 24.04 has 3.12) and name it: make PYTHON=python3.11 ..."
        )
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        this = f"{platform.system()} on {platform.machine()}"
        found.append(f"the Triton wheel and ONNX Runtime GenAI need Linux on x86-64; this is {this}.")
    else:
        name, version = platform.libc_ver()
        if name == "glibc" and tuple(int(p) for p in version.split(".")[:2]) < (2, 35):
            found.append(f"the Triton wheel needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04); this is {version}.")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        found.append("Python's venv module is missing. Debian and Ubuntu: apt install python3-venv")
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    if free < NEEDED_GIB:
        found.append(f"{free:.1f} GiB are free here; the environment and the example need up to {NEEDED_GIB} GiB.")
    return found


if __name__ == "__main__":
    listed = problems()
    for problem in listed:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2 if listed else 0)
