"""Checks of what each backend needs: a known backend, the model's file, Python that compiles, parameters that it reads."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model, Repository
from enginepress.repository.paths import resolve
from enginepress.repository.templates import template_modules


@dataclass(frozen=True)
class Backend:
    """A backend that comes with Triton.

    Attributes:
        file: what it looks for in a version folder by default, or None.
        completes: whether it can add missing inputs and outputs to the config by itself.
    """

    file: str | None = None
    completes: bool = False


BACKENDS = {
    "python": Backend("model.py", completes=True),
    "onnxruntime": Backend("model.onnx", completes=True),
    "tensorrt": Backend("model.plan", completes=True),
    "pytorch": Backend("model.pt"),
    "tensorflow": Backend(completes=True),
    "openvino": Backend("model.xml", completes=True),
    "tensorrtllm": Backend(),
    "vllm": Backend("model.json", completes=True),
    "dali": Backend("model.dali", completes=True),
    "fil": Backend(),
    "identity": Backend(),
    "repeat": Backend(),
    "square": Backend(),
}

PLATFORMS = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "ensemble": "ensemble",
}
_PLATFORM_FILES = {
    "tensorflow_savedmodel": "model.savedmodel",
    "tensorflow_graphdef": "model.graphdef",
    "torch_aoti": "model.pt2",
}
_GUESSED = {backend.file: name for name, backend in BACKENDS.items() if backend.file is not None}

_MAX_PYTHON = 5_000_000
_IMPORTED = re.compile(rb"^\s*(?:from|import)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


def backend_of(model: Model) -> str | None:
    """The backend that Triton would use, by its own rules for configs that leave it out; None if it could not tell."""
    config: Any = model.config
    if config is not None:
        if model.is_ensemble:
            return "ensemble"
        if config.backend:
            return str(config.backend)
        if config.platform in PLATFORMS:
            return PLATFORMS[config.platform]
        if config.platform:
            return None
        if config.default_model_filename in _GUESSED:
            return _GUESSED[config.default_model_filename]
    for version in model.versions[:1]:
        present = {path.split("/")[0] for path in model.files_under(str(version))}
        for name in ("model.savedmodel", "model.graphdef"):
            if name in present:
                return "tensorflow"
        for name in ("model.plan", "model.onnx", "model.xml", "model.pt", "model.py"):
            if name in present:
                return _GUESSED[name]
    return None


def completes_itself(model: Model) -> bool:
    """Whether missing inputs and outputs are no mistake."""
    backend = backend_of(model)
    return backend not in BACKENDS or BACKENDS[backend].completes


def check_backend(repository: Repository, model: Model) -> Iterator[Finding]:
    """Backend, files of each version that would be loaded, parameters."""
    config: Any = model.config
    backend = backend_of(model)
    if not model.has_config:
        if backend is None:
            yield error(
                model.name,
                model.name,
                "has no config.pbtxt, and no file by which Triton could tell the backend",
                "write a config.pbtxt, or move the folder out of the repository",
            )
        else:
            yield warning(
                model.name,
                model.name,
                f"has no config.pbtxt; Triton makes one up for backend '{backend}', so its tensors cannot be checked",
                "write a config.pbtxt",
            )
    if config is None:
        return
    yield from _check_backend_fields(model, backend)
    if backend is None or backend == "ensemble":
        return
    yield from _check_model_files(model, backend)
    if not config.input and not config.output and not completes_itself(model):
        yield error(
            model.name,
            model.config_file,
            f"declares no input and no output, and backend '{backend}' does not add them",
            "declare the model's tensors",
        )
    yield from _check_parameters(repository, model, backend)


def _check_backend_fields(model: Model, backend: str | None) -> Iterator[Finding]:
    config: Any = model.config
    if config.platform and config.platform not in PLATFORMS and not config.backend:
        yield error(
            model.name, model.config_file, f"platform is '{config.platform}', which Triton does not know", "set backend instead"
        )
    elif backend is None:
        yield error(model.name, model.config_file, "sets neither backend nor platform", 'for example backend: "python"')
    elif backend not in BACKENDS and backend != "ensemble":
        yield warning(
            model.name,
            model.config_file,
            f"backend '{backend}' does not come with Triton: the server needs a backend of this name",
            f"known: {', '.join(sorted(BACKENDS))}",
        )
    expected = PLATFORMS.get(config.platform)
    if config.backend in BACKENDS and expected not in (None, "ensemble", config.backend) and config.backend != "python":
        yield error(model.name, model.config_file, f"platform '{config.platform}' does not belong to backend '{config.backend}'")


def _check_model_files(model: Model, backend: str) -> Iterator[Finding]:
    config: Any = model.config
    if config.runtime:
        return  # It names a library of the backend that may have its own idea of files.
    default = _PLATFORM_FILES.get(config.platform) or (BACKENDS[backend].file if backend in BACKENDS else None)
    names = [config.default_model_filename or default]
    if config.cc_model_filenames:
        names = list(config.cc_model_filenames.values())
    for version in model.served_versions():
        present = model.files_under(str(version))
        for name in names:
            if name is None:
                continue
            if name not in present and not any(path.startswith(name + "/") for path in present):
                yield error(
                    model.name,
                    f"{model.name}/{version}",
                    f"has no {name}, which backend '{backend}' loads",
                    f"put {name} there, or set default_model_filename",
                )
            elif backend == "python":
                yield from _check_python(model, f"{version}/{name}")


def _check_python(model: Model, path: str) -> Iterator[Finding]:
    """The file is parsed, never run."""
    file = f"{model.name}/{path}"
    source = model.read(path, _MAX_PYTHON + 1)
    if source is None:
        yield error(model.name, file, "cannot be read", "check the file's rights")
        return
    if len(source) > _MAX_PYTHON:
        yield warning(model.name, file, "is too large to be checked")
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, filename=file)
    except SyntaxError as problem:
        yield error(model.name, file, f"line {problem.lineno}: is no valid Python: {problem.msg}")
        return
    except (ValueError, RecursionError, MemoryError) as problem:
        yield error(model.name, file, f"is no valid Python: {problem or 'nested too deeply'}")
        return
    yield from _check_helpers(model, path)
    if not any(_binds(node, "TritonPythonModel") for node in ast.walk(tree)):
        yield error(
            model.name, file, "defines no class TritonPythonModel, which the python backend looks for", "define or import it"
        )


def _check_helpers(model: Model, path: str) -> Iterator[Finding]:
    """Modules of enginepress's own templates that lie beside model.py: each that one of them imports must be there too."""
    folder = path.rpartition("/")[0]
    present = {name for name in model.files_under(folder) if name.endswith(".py") and "/" not in name}
    own = template_modules()
    for name in sorted(present):
        if name != path.rpartition("/")[2] and name[:-3] not in own:
            continue  # not ours, so what it imports may be installed
        source = model.read(f"{folder}/{name}", _MAX_PYTHON) or b""
        for module in sorted({found.decode() for found in _IMPORTED.findall(source)}):
            if module in own and f"{module}.py" not in present:
                yield error(
                    model.name,
                    f"{model.name}/{folder}/{name}",
                    f"imports {module}, but there is no {module}.py beside it",
                    "assemble or publish it again",
                )


def _binds(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name == name
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return any((alias.asname or alias.name) in (name, "*") for alias in node.names)
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)


def _check_parameters(repository: Repository, model: Model, backend: str) -> Iterator[Finding]:
    forced = model.parameter("FORCE_CPU_ONLY_INPUT_TENSORS")
    if backend == "python" and forced is not None and forced not in ("yes", "no"):
        yield error(model.name, model.config_file, f"parameter FORCE_CPU_ONLY_INPUT_TENSORS is '{forced}'", "set it to yes or no")
    environment = model.parameter("EXECUTION_ENV_PATH")
    if backend == "python" and environment and not environment.startswith("s3://"):
        found = resolve(repository, model, environment)
        if found.path is None:
            make = error if found.inside else warning
            yield make(
                model.name,
                model.config_file,
                f"parameter EXECUTION_ENV_PATH: {environment} is not there" + ("" if found.inside else " on this machine"),
                "without it the model does not load",
            )
