"""Compiled pipelines as they are submitted: the YAML, its digest, and the parameters that its runs take.

Compiling needs the whole kfp SDK, which takes longer than all the rest of a submission. What was compiled is therefore kept in
the user's cache, under a digest of all that goes into it: options, installed sources, the versions of enginepress and kfp.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import enginepress
from enginepress.canonical import json_digest, sha256_hex
from enginepress.compile_options import CompileOptions
from enginepress.errors import UsageError
from enginepress.files import user_cache, write_atomic
from enginepress.run.compiled import compile_pipeline

_KINDS = {
    "STRING": "text",
    "BOOLEAN": "true or false",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}
_TYPES: Mapping[str, Any] = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": (int, float),
    "LIST": (list, tuple),
    "STRUCT": Mapping,
}


@dataclass(frozen=True)
class Parameter:
    """A run-time parameter of a pipeline. `kind` is one of kfp's parameter types."""

    kind: str
    required: bool
    default: Any = None
    description: str = ""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        pipeline: its module's name, as `build_and_publish`.
        name: what it is called on Kubeflow.
        text: the YAML.
        digest: sha256 of the YAML.
        parameters: by name.
    """

    pipeline: str
    name: str
    text: str
    digest: str
    parameters: Mapping[str, Parameter]

    @property
    def version(self) -> str:
        """The name of its version on Kubeflow: equal YAML, equal name."""
        return self.digest[:16]


def package_of(pipeline: str, options: CompileOptions, *, cache: Path | None = None) -> Package:
    """The package of a pipeline, compiled now or before.

    Args:
        cache: folder for what was compiled; default: in the user's cache.
    """
    folder = cache or _default_cache()
    path = folder / f"{pipeline}-{_key(pipeline, options)[:32]}.json"
    if (kept := _read(path)) is not None:
        return kept
    package = read_package(pipeline, compile_pipeline(pipeline, options))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**asdict(package), "parameters": {n: asdict(p) for n, p in package.parameters.items()}}))
    except OSError:
        pass  # a cache that cannot be written costs the time of compiling, no more
    return package


def read_package(pipeline: str, text: str) -> Package:
    """A package from its YAML."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec = next(d for d in yaml.load_all(text, Loader=loader) if isinstance(d, dict) and "pipelineInfo" in d)
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    parameters = {
        name: Parameter(
            str(one["parameterType"]),
            not one.get("isOptional") and "defaultValue" not in one,
            one.get("defaultValue"),
            " ".join(str(one.get("description", "")).split()),
        )
        for name, one in inputs.items()
    }
    return Package(pipeline, f"enginepress-{spec['pipelineInfo']['name']}", text, sha256_hex(text), parameters)


def read_value(package: Package, name: str, text: str) -> Any:
    """The value of a parameter as a user wrote it.

    Raises:
        UsageError: if there is no such parameter, or the value is none of its kind.
    """
    parameter = package.parameters.get(name)
    if parameter is None:
        raise UsageError(
            f"the pipeline has no parameter '{name}'", where="--set", fix="it has: " + ", ".join(sorted(package.parameters))
        )
    if parameter.kind == "STRING":
        return text
    lower = text.strip().lower()
    try:
        if parameter.kind == "BOOLEAN" and lower in ("true", "false"):
            return lower == "true"
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if value is not None and is_of_kind(value, parameter.kind):
        return value
    raise UsageError(f"'{text}' is not {kind_in_words(parameter.kind)}", where=f"--set {name}")


def is_of_kind(value: Any, kind: str) -> bool:
    """Whether the backend takes a value for a parameter of this kind. A kind that is not known here is left to it."""
    if kind == "BOOLEAN" or isinstance(value, bool):
        return kind == "BOOLEAN" and isinstance(value, bool)
    return isinstance(value, _TYPES.get(kind, object))


def kind_in_words(kind: str) -> str:
    return _KINDS.get(kind, kind)


def _default_cache() -> Path:
    return user_cache() / "enginepress" / "compiled"


def _key(pipeline: str, options: CompileOptions) -> str:
    """Of everything that the YAML depends on. Sources count by size and time: reading all of them takes longer than it saves."""
    places = [Path(enginepress.__file__).parent]
    for name in ("enginepress.pipelines", "enginepress.components"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        places += map(Path, spec.submodule_search_locations)
    sources = []
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                if name.endswith((".py", ".yaml")):
                    found = os.stat(os.path.join(folder, name))
                    sources.append([os.path.join(folder, name), found.st_size, found.st_mtime_ns])
    return json_digest([pipeline, asdict(options), enginepress.__version__, _versions(), sorted(sources)])


def _versions() -> list[str]:
    found = []
    for name in ("kfp", "kfp-pipeline-spec", "kfp-kubernetes"):
        try:
            found.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            found.append("")
    return found


def _read(path: Path) -> Package | None:
    try:
        data = json.loads(path.read_bytes())
        parameters = {name: Parameter(**one) for name, one in data.pop("parameters").items()}
        package = Package(**data, parameters=parameters)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return package if sha256_hex(package.text) == package.digest else None
