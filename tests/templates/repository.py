"""A served onnxruntime model for tests: tiny checkpoint, real engine, model repository from the template's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

TEMPLATES = Path(__file__).resolve().parents[2] / "model_repo_templates"
TEMPLATE = TEMPLATES / "onnxruntime"
COMMON = TEMPLATES / "common"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)


def build_engine(checkpoint: Path, output: Path, precision: str = "fp32") -> Path:
    """Builds with onnxruntime-genai's own builder."""
    argv = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-o", str(output)]
    argv += ["-p", precision, "-e", "cpu", "-c", str(output.parent / "cache")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=output.parent)
    assert done.returncode == 0, done.stderr
    return output


def write_model(repository: Path, name: str, *, checkpoint: Path, engine: Path, **parameters: object) -> Path:
    """Writes one model, version 1, with these parameters."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    for file in [*TEMPLATE.glob("*.py"), *COMMON.glob("*.py")]:
        if file.name != "__init__.py":
            shutil.copyfile(file, version / file.name)
    shutil.copytree(engine, version / "engine", copy_function=_link)
    (version / "tokenizer").mkdir()
    for file_name in _TOKENIZER_FILES:
        if (checkpoint / file_name).is_file():
            shutil.copyfile(checkpoint / file_name, version / "tokenizer" / file_name)
    config = read_config()
    config.name = name
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    (repository / name / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return repository


def read_config() -> model_config_pb2.ModelConfig:
    """The template's config.pbtxt."""
    return text_format.Parse((TEMPLATE / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
