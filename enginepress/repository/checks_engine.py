"""Checks of LLM engines against the config that serves them: ranks, batch size, tokenizer, model paths."""

from __future__ import annotations

from collections.abc import Iterator

from enginepress.repository.checks_adapters import check_adapters_file
from enginepress.repository.checks_backend import backend_of
from enginepress.repository.checks_checkpoint import check_arguments, check_checkpoint_folder
from enginepress.repository.checks_trtllm import check_tensorrt_llm
from enginepress.repository.findings import Finding, error, warning
from enginepress.repository.inventory import Model, Repository
from enginepress.repository.mappings import number, read_mapping, reads_as_object, section
from enginepress.repository.paths import resolve
from enginepress.repository.templates import MARK, PATH_FILES, PATH_PARAMETERS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
GENAI_DEFAULT_BATCH = 4
"""What ONNX Runtime GenAI takes when genai_config.json names no static batching."""


def check_engine(repository: Repository, model: Model) -> Iterator[Finding]:
    """Whatever engine this model serves."""
    if model.config is None or model.is_ensemble:
        return
    backend = backend_of(model)
    yield from _check_path_parameters(repository, model)
    if backend == "tensorrtllm":
        yield from check_tensorrt_llm(repository, model)
    for version in model.served_versions():
        for name in PATH_FILES:
            if f"{version}/{name}" in model.entries and (name, backend) in (("model.json", "vllm"), ("model.yaml", "python")):
                yield from _check_model_file(repository, model, f"{version}/{name}")
        yield from _check_genai(model, version)


# ------------------------------------------------------------------------------------------------------------------
# Paths
# ------------------------------------------------------------------------------------------------------------------


def _check_path_parameters(repository: Repository, model: Model) -> Iterator[Finding]:
    for key in PATH_PARAMETERS:
        value = model.parameter(key)
        if not value:
            continue
        yield from _check_path(repository, model, model.config_file, f"parameter {key}", value, tokenizer="tokenizer" in key)


def _check_path(repository: Repository, model: Model, file: str, label: str, value: str, *, tokenizer: bool) -> Iterator[Finding]:
    found = resolve(repository, model, value)
    if found.path is not None:
        if tokenizer and found.path.is_dir():
            if not any((found.path / name).is_file() for name in TOKENIZER_FILES):
                yield error(
                    model.name, file, f"{label}: {value} holds no tokenizer", f"put one of {', '.join(TOKENIZER_FILES)} there"
                )
            elif not reads_as_object(found.path / "tokenizer.json"):
                yield error(
                    model.name,
                    file,
                    f"{label}: {value}/tokenizer.json is damaged or cut off: it holds no JSON object",
                    "put the checkpoint's own tokenizer.json there",
                )
    elif found.inside:
        yield error(model.name, file, f"{label}: {value} is not in the repository", "assemble or publish it again")
    elif found.hub:
        yield warning(
            model.name,
            file,
            f"{label}: '{value}' reads like a name on a model hub, so the server would download it when it starts",
            "name a local folder",
        )
    elif found.relative:
        yield warning(model.name, file, f"{label}: '{value}' is relative to the server's working folder", "name an absolute path")
    else:
        yield warning(model.name, file, f"{label}: {value} is not there on this machine", "check it where the server runs")


def _check_model_file(repository: Repository, model: Model, path: str) -> Iterator[Finding]:
    """vllm's model.json and llmapi's model.yaml: a mapping whose `model` names a checkpoint."""
    file = f"{model.name}/{path}"
    values = read_mapping(model.folder / path)
    if values is None:
        yield error(model.name, file, "is not a readable mapping of names to values")
        return
    if not isinstance(values.get("model"), str) or not values["model"]:
        yield error(model.name, file, "model is not set", "name the checkpoint's folder")
        return
    found = resolve(repository, model, values["model"])
    yield from check_arguments(model, path, values, ours=found.inside)
    yield from check_adapters_file(model, path.partition("/")[0], values, llmapi=path.endswith(".yaml"))
    if found.path is not None and found.path.is_dir():
        yield from check_checkpoint_folder(model, file, values, found.path, ours=found.inside)
    yield from _check_path(repository, model, file, "model", values["model"], tokenizer="tokenizer" not in values)
    if isinstance(values.get("tokenizer"), str):
        yield from _check_path(repository, model, file, "tokenizer", values["tokenizer"], tokenizer=True)


def rootless_paths(model: Model) -> Iterator[tuple[str, str, str]]:
    """File, field and value of each path that has no readers' root yet (see `enginepress.repository.templates`)."""
    for key in PATH_PARAMETERS:
        value = model.parameter(key)
        if value is not None and value.startswith(MARK):
            yield model.config_file, f"parameter {key}", value
    for version in model.served_versions():
        for name, keys in PATH_FILES.items():
            values = read_mapping(model.folder / str(version) / name) or {}
            for key in keys:
                if isinstance(values.get(key), str) and values[key].startswith(MARK):
                    yield f"{model.name}/{version}/{name}", key, values[key]


# ------------------------------------------------------------------------------------------------------------------
# ONNX Runtime GenAI behind the python backend
# ------------------------------------------------------------------------------------------------------------------


def _check_genai(model: Model, version: int) -> Iterator[Finding]:
    for path in model.files_under(str(version)):
        if path.split("/")[-1] == "genai_config.json":
            yield from _check_genai_engine(model, version, path)


def _check_genai_engine(model: Model, version: int, path: str) -> Iterator[Finding]:
    file = f"{model.name}/{version}/{path}"
    engine = read_mapping(model.folder / str(version) / path)
    if engine is None:
        yield error(model.name, file, "is not a readable mapping of names to values", "build the engine again")
        return
    present = model.files_under(str(version))
    folder = path.rpartition("/")[0]
    graph = section(section(engine, "model"), "decoder").get("filename")
    if isinstance(graph, str) and (f"{folder}/{graph}" if folder else graph) not in present:
        yield error(model.name, file, f"model.decoder.filename is '{graph}', which is not beside it", "build the engine again")
    batch = number(section(section(engine, "engine"), "static_batching"), "max_batch_size") or GENAI_DEFAULT_BATCH
    asked = model.parameter("max_batch_size") or ""
    if asked.isdigit() and int(asked) > batch:
        yield error(
            model.name,
            model.config_file,
            f"parameter max_batch_size is {asked}, but the engine takes {batch} ({path})",
            f"set it to {batch} at most, or build the engine for {asked}",
        )
    context = number(section(engine, "model"), "context_length")
    length = model.parameter("max_sequence_length") or ""
    if context is not None and length.isdigit() and int(length) > context:
        yield error(
            model.name,
            model.config_file,
            f"parameter max_sequence_length is {length}, but the model was made for {context} ({path})",
            f"set it to {context} at most",
        )
    if not any(name.split("/")[-1] in TOKENIZER_FILES for name in present):
        yield error(
            model.name,
            f"{model.name}/{version}",
            "has no tokenizer, which text in and out needs",
            f"put one of {', '.join(TOKENIZER_FILES)} beside the engine",
        )
