"""A container image, stood in for by a folder: executables, examples in one of their layouts, and installed packages."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginepress.engines.tensorrt_llm.architectures import FAMILIES
from enginepress.engines.tensorrt_llm.release import Target
from tests.engines.stand_ins.parser import contract

ROOT = Path(__file__).parents[3]
H100 = "NVIDIA H100 80GB HBM3,9.0,590.44.01"


@dataclass(frozen=True)
class Image:
    folder: Path
    version: str
    tensorrt: str

    def enter(self, patch: pytest.MonkeyPatch, *, gpus: str = H100, reading: str | None = None) -> None:
        """Makes this process run in the image."""
        patch.setenv("PATH", f"{self.folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
        patch.setenv("PYTHONPATH", f"{self.folder / 'packages'}{os.pathsep}{ROOT}")
        patch.setenv("ENGINEPRESS_TRTLLM_EXAMPLES", str(self.folder / "examples"))
        patch.setenv("STAND_IN_VERSION", self.version)
        patch.setenv("STAND_IN_GPUS", gpus)
        patch.setenv("HF_TOKEN", "hf_not_for_tools")
        release = ".".join(self.version.split(".")[:2])
        readings = {"*": reading or contract("trtllm-build")["releases"][release][-1]}
        if reading is None:
            readings["quantize"] = contract("quantize")["releases"][release][-1]
        patch.setenv("STAND_IN_READINGS", ";".join(f"{tool}={name}" for tool, name in readings.items()))


def make_image(folder: Path, *, version: str = "1.2.1", tensorrt: str = "10.14.1.48", layout: str = "models") -> Image:
    """Args:
    layout: "models" as since 0.19, "flat" as before.
    """
    (folder / "bin").mkdir(parents=True)
    _script(folder / "bin" / "trtllm-build", "main('trtllm-build')")
    _script(folder / "bin" / "nvidia-smi", "nvidia_smi()")
    examples = folder / "examples"
    for family in FAMILIES.values():
        place = f"models/{family.group}/{family.folder}" if layout == "models" else family.older_folder or family.folder
        _script(examples / place / "convert_checkpoint.py", f"main('convert-{family.name}')")
    _script(examples / "quantization" / "quantize.py", "main('quantize')")
    for name, number in (("tensorrt_llm", version), ("tensorrt", tensorrt)):
        package = folder / "packages" / f"{name}-{number}.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return Image(folder, version, tensorrt)


def target(version: str = "1.2.1", *, tensorrt: str = "10.14.1.48", sm: str = "90", gpu: str = "H100-SXM5-80GB") -> Target:
    return Target(
        tag="26.07",
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        tensorrt_llm=version,
        tensorrt=tensorrt,
        template="tensorrt_llm_1_0",
        gpu=gpu,
        sm=sm,
    )


def _script(path: Path, call: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nfrom tests.engines.stand_ins.tool import *\n\n{call}\n")
    path.chmod(0o755)
