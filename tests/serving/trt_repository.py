"""A generated TensorRT-LLM repository that the real Triton can serve here: a stand-in runs its engine, on a CPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.templates import template_folder
from enginepress.serving import tritonserver
from enginepress.serving.installation import Launch

BACKENDS = Path(__file__).parent / "backends"
CONTAINERS = {"tensorrt_llm_0_18": "25.04", "tensorrt_llm_0_19": "25.08", "tensorrt_llm_1_0": "26.07"}


def trt_recipe(generation: str, name: str = "tiny", *, batch: int = 4, **serving: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "source": "file:///checkpoint",
            "engine": {
                "builder": "tensorrt_llm",
                "precision": "float16",
                "container": CONTAINERS[generation],
                "limits": {"max_batch_size": batch},
            },
            "serving": serving,
            "stores": ["file:///store"],
        }
    )


def engine_folder(genai: Path, target: Path, *, batch: int = 4, vocab_size: int = 0) -> Path:
    """What trtllm-build would leave, with an ONNX Runtime engine in it for the stand-in to run."""
    target.mkdir(parents=True)
    for file in genai.iterdir():
        (target / file.name).hardlink_to(file)
    config = {
        "version": "1.2.1",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "vocab_size": vocab_size or json.loads((genai / "genai_config.json").read_text())["model"]["vocab_size"],
            "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        },
        "build_config": {"max_batch_size": batch, "max_beam_width": 1},
    }
    (target / "config.json").write_text(json.dumps(config))
    (target / "rank0.engine").write_bytes(b"a stand-in: genai_config.json is what runs")
    return target


def make_repository(
    folder: Path, recipe: Recipe, *, generation: str, checkpoint: Path, engine: Path, extra: Mapping[str, str] | None = None
) -> Path:
    """Assembled and placed as release 1.

    Args:
        extra: parameters for the stand-in, added to the engine's config.
    """
    unplaced = folder / "unplaced" / recipe.name
    unplaced.mkdir(parents=True)
    assemble(engine=engine, checkpoint=checkpoint, recipe=recipe, output=unplaced, template=template_folder(generation))
    if extra:
        config = unplaced / f"{recipe.name}-engine" / "config.pbtxt"
        lines = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in extra.items()]
        config.write_text(config.read_text() + "".join(lines))
    placed = folder / "placed" / recipe.name
    write_placement(place(unplaced, 1, str(placed)), placed)
    return placed


def serving_stand_ins(*, patch: pytest.MonkeyPatch) -> None:
    """Every server that is started from now on has the stand-ins among its backends."""
    real = tritonserver.prepare

    def prepare(*arguments: Any, **options: Any) -> Launch:
        launch = real(*arguments, **options)
        argument = next(a for a in launch.argv if a.startswith("--backend-directory="))
        for backend in BACKENDS.iterdir():
            if backend.is_dir() and (backend / "model.py").is_file():
                shutil.copytree(backend, Path(argument.split("=", 1)[1]) / backend.name)
        return launch

    patch.setattr(tritonserver, "prepare", prepare)
