"""Release numbers and readers' paths: written into a repository, and taken out again.

Three forms of one repository, which differ in nothing else:

    unplaced   version folders `0`, no version_policy, ensemble steps without model_version, paths `./<model>/0/…`
    release N  version folders `N`, version_policy { specific { versions: [N] } }, steps of this repository's models at
               version N, paths `./<model>/N/…`; no absolute path, so it is the same in every store
    placed     release N with paths `<root>/./<model>/N/…`, for readers who see it at `root`; for live servers the models
               behind others are called `<model>.rN`

`place` makes the second and third from any of them, `unplaced_files` the first. Only config.pbtxt files and the path fields
listed in `enginepress.repository.templates` are rewritten; every other file is the same file. Versions of a model are
folders with files in them: an empty folder would be lost in a store that knows only files.

`content_digest_of` is the digest of the unplaced form, so it says whether two repositories are the same release content.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from enginepress.canonical import sha256_hex
from enginepress.errors import RepositoryError, UnsafePathError
from enginepress.files import FileEntry, check_relative, content_digest, explain_os_error, hash_file, sync_tree
from enginepress.repository import UNPLACED_VERSION, Placement
from enginepress.repository.config import parse_config, print_config
from enginepress.repository.links import LinkKind, link_file, link_target
from enginepress.repository.proto import ModelConfig
from enginepress.repository.side_by_side import plain_names, release_names, rename
from enginepress.repository.templates import MARK, PATH_FILES, PATH_PARAMETERS

CONFIG = "config.pbtxt"
CONFIG_VARIANTS = "configs"
"""Triton's folder for alternative configs (`--model-config-name`)."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


# ------------------------------------------------------------------------------------------------------------------
# Placing
# ------------------------------------------------------------------------------------------------------------------


def place(repository: Path, number: int, root: str | None, *, side_by_side: bool = False) -> Placement:
    """The repository as release `number`, for readers who see it at `root`. Changes nothing on disk.

    Args:
        repository: a folder of models, in any of the three forms.
        number: from 1 up.
        root: absolute path of the placed folder for its readers; None leaves paths relative (a release).
        side_by_side: models that only other models call carry the number in their names, so that a live server can have two
            releases loaded (`enginepress.repository.side_by_side`).

    Raises:
        RepositoryError: if it is not a repository that can be placed, naming the file.
    """
    if number < 1:
        raise RepositoryError(f"release numbers start at 1, not {number}")
    prefix = "" if root is None else _check_root(root)
    unplaced = unplaced_files(repository)
    models = _models(unplaced.written)
    version = str(number)
    names = release_names(_configs(unplaced.written, repository), number) if side_by_side else {}

    def path_value(value: Any) -> str | None:
        inner = own_path(value, models)
        return None if inner is None else prefix + MARK + moved(inner)

    def moved(relative: str) -> str:
        return _with_name(_with_version(relative, models, UNPLACED_VERSION, version), names)

    def numbered(config: ModelConfig) -> None:
        renumber(config, models, version)
        rename(config, names)

    written = {}
    for relative, content in unplaced.written.items():
        new = _rewrite(relative, content, str(repository / relative), numbered, path_value)
        written[moved(relative)] = new
    linked = {moved(relative): path for relative, path in unplaced.linked.items()}
    return Placement(number, written, linked)


def unplaced_files(repository: Path) -> Placement:
    """The unplaced form (number 0) of a repository in any form. Changes nothing on disk.

    Raises:
        RepositoryError: if it is no repository, its models have several versions or different ones, or a version is empty.
    """
    try:
        return _unplaced_files(repository)
    except UnsafePathError as error:
        raise RepositoryError(error.message, where=f"{repository}: {error.where}") from None
    except OSError as error:
        raise explain_os_error(error, "reading the model repository", RepositoryError) from None


def _unplaced_files(repository: Path) -> Placement:
    version = repository_version(repository)
    sources = dict(_walk(repository, version))
    models = _models(sources)
    for model in sorted(models):
        if not any(relative.startswith(f"{model}/{version}/") for relative in sources):
            raise RepositoryError(
                "is an empty version folder, which a store could not keep",
                where=str(repository / model / version),
                fix="put a file into it, for example an empty one called .keep",
            )

    tops = {f"{model}/{CONFIG}": sources[f"{model}/{CONFIG}"].read_bytes() for model in sorted(models)}
    names = plain_names(_configs(tops, repository), int(version))

    def path_value(value: Any) -> str | None:
        inner = own_path(value, models)
        return None if inner is None else MARK + moved(inner)

    def moved(relative: str) -> str:
        return _with_name(_with_version(relative, models, version, UNPLACED_VERSION), names)

    def unnumbered(config: ModelConfig) -> None:
        renumber(config, models, UNPLACED_VERSION)
        rename(config, names)

    written: dict[str, bytes] = {}
    linked: dict[str, Path] = {}
    for relative, path in sources.items():
        if _is_rewritten(relative):
            content = tops.get(relative) or path.read_bytes()
            written[moved(relative)] = _rewrite(relative, content, str(repository / relative), unnumbered, path_value)
        else:
            linked[moved(relative)] = path
    return Placement(int(UNPLACED_VERSION), written, linked)


def repository_version(repository: Path) -> str:
    """The one version folder that all models of a repository have: "0" if it is unplaced.

    Raises:
        RepositoryError: if there are no models, or a model has no version, several, or another one than the others.
    """
    found: dict[str, str] = {}
    if not repository.is_dir():
        raise RepositoryError("is not a folder of models", where=str(repository))
    for model in sorted(p for p in repository.iterdir() if (p / CONFIG).is_file()):
        versions = [p.name for p in sorted(model.iterdir()) if p.is_dir() and _NUMBER.fullmatch(p.name)]
        if len(versions) != 1:
            what = "no version folder" if not versions else f"the versions {', '.join(versions)}"
            raise RepositoryError(f"has {what}, where a release has exactly one", where=str(model))
        found[model.name] = versions[0]
    if not found:
        raise RepositoryError("has no models: no folder in it holds a config.pbtxt", where=str(repository))
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} has {version}" for name, version in found.items())
        raise RepositoryError(f"its models have different versions: {listed}", where=str(repository))
    return next(iter(found.values()))


def renumber(config: ModelConfig, models: set[str], version: str) -> None:
    """Sets the numbers in a config: its version policy, and the versions of ensemble steps that use `models`."""
    number = int(version)
    config.ClearField("version_policy")
    if number:
        config.version_policy.specific.versions.append(number)
    if config.HasField("ensemble_scheduling"):
        for step in config.ensemble_scheduling.step:
            if step.model_name in models:
                step.model_version = number


# ------------------------------------------------------------------------------------------------------------------
# Digest
# ------------------------------------------------------------------------------------------------------------------


def content_digest_of(repository: Path, *, known: Mapping[str, FileEntry] | None = None) -> str:
    """Digest of the unplaced form of a repository in any form: equal for all placements of one content.

    Args:
        known: entries of the files as they lie in `repository`, so that large files are not hashed again.

    Raises:
        RepositoryError: as `unplaced_files`.
    """
    return content_digest(unplaced_entries(repository, known=known))


def unplaced_entries(repository: Path, *, known: Mapping[str, FileEntry] | None = None) -> tuple[FileEntry, ...]:
    """Path, size and sha256 of every file of the unplaced form, sorted by path."""
    known = known or {}
    placement = unplaced_files(repository)
    entries = [FileEntry(path, len(content), sha256_hex(content)) for path, content in placement.written.items()]
    version = repository_version(repository)
    models = _models(placement.written)
    try:
        for path, source in placement.linked.items():
            entry = known.get(_with_version(path, models, UNPLACED_VERSION, version))
            if entry is None:
                entry = FileEntry(path, source.stat().st_size, hash_file(source))
            entries.append(FileEntry(path, entry.size, entry.sha256))
    except OSError as error:
        raise explain_os_error(error, "reading the model repository", RepositoryError) from None
    return tuple(sorted(entries, key=lambda entry: entry.path))


# ------------------------------------------------------------------------------------------------------------------
# Writing a placement to disk
# ------------------------------------------------------------------------------------------------------------------


def write_placement(placement: Placement, folder: Path, *, link: LinkKind = "hard", sync: bool = False) -> None:
    """Makes `folder`, which must be empty or missing, hold the placement.

    Rewritten files are always new files: Triton reloads a model only if something is newer than what it remembers.

    Args:
        link: how unchanged files get there; see `enginepress.repository.links`.
        sync: make it durable. A gate's folder need not be.

    Raises:
        RepositoryError: if the folder is not empty, or cannot be written.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise RepositoryError("is not empty, so nothing is written there", where=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        for relative, source in placement.linked.items():
            link_file(source, folder / check_relative(relative), link=link)
        for relative, content in placement.written.items():
            target = folder / check_relative(relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if sync:
            sync_tree(folder)
    except OSError as error:
        raise explain_os_error(error, "writing the placed repository", RepositoryError) from None


# ------------------------------------------------------------------------------------------------------------------
# Files, numbers and paths
# ------------------------------------------------------------------------------------------------------------------


def _check_root(root: str) -> str:
    """The root without trailing slash and without a mark of its own."""
    if not root.startswith("/") or any(ord(c) < 32 or ord(c) == 127 for c in root):
        raise RepositoryError(
            f"the readers' root must be an absolute path, not {root!r}", fix="name the folder at which servers see it"
        )
    # A leading // has a meaning of its own to POSIX and none here.
    return os.path.normpath("/" + root.lstrip("/")).rstrip("/") + "/"


def _walk(repository: Path, version: str) -> Iterator[tuple[str, Path]]:
    """Every file: relative path and the file that holds its bytes, which a link of an activation has elsewhere."""
    for base, folders, names in os.walk(repository, followlinks=False):
        folders.sort()
        for name in sorted(names + [d for d in folders if os.path.islink(os.path.join(base, d))]):
            path = Path(base, name)
            relative = path.relative_to(repository).as_posix()
            check_relative(relative)
            if path.is_symlink():
                path = link_target(repository, relative, version=version)
            if not path.is_file():
                raise UnsafePathError("is neither a file nor a real folder", where=relative)
            yield relative, path


def _models(paths: Mapping[str, Any]) -> set[str]:
    return {relative.split("/")[0] for relative in paths if relative.endswith("/" + CONFIG) and relative.count("/") == 1}


def _configs(files: Mapping[str, bytes], repository: Path) -> dict[str, ModelConfig]:
    """The models' own configs by the models' names."""
    tops = {path: content for path, content in files.items() if path.endswith("/" + CONFIG) and path.count("/") == 1}
    return {path.split("/")[0]: parse_config(content, str(repository / path)) for path, content in tops.items()}


def _with_name(relative: str, names: Mapping[str, str]) -> str:
    """`tiny-engine/7/config.json` -> `tiny-engine.r7/7/config.json`, if the names say so."""
    top, slash, rest = relative.partition("/")
    return names.get(top, top) + slash + rest


def _with_version(relative: str, models: set[str], old: str, new: str) -> str:
    """`tiny/0/model.py` -> `tiny/7/model.py`, if `tiny` is a model of this repository."""
    parts = relative.split("/")
    if len(parts) > 1 and parts[0] in models and parts[1] == old:
        parts[1] = new
    return "/".join(parts)


def _is_config(relative: str) -> bool:
    parts = relative.split("/")
    return (len(parts) == 2 and parts[1] == CONFIG) or (
        len(parts) == 3 and parts[1] == CONFIG_VARIANTS and parts[2].endswith(".pbtxt")
    )


def _is_rewritten(relative: str) -> bool:
    parts = relative.split("/")
    return _is_config(relative) or (len(parts) == 3 and bool(_NUMBER.fullmatch(parts[1])) and parts[2] in PATH_FILES)


def own_path(value: Any, models: set[str]) -> str | None:
    """The path from the repository's top that a marked value holds, in any of the three forms; None for any other value."""
    if not isinstance(value, str):
        return None
    if value.startswith(MARK):
        inner = value[len(MARK) :]
    elif value.startswith("/") and "/" + MARK in value:
        inner = value[value.index("/" + MARK) + len(MARK) + 1 :]
    else:
        return None
    return inner if inner.split("/")[0] in models else None


def _rewrite(
    relative: str,
    content: bytes,
    where: str,
    numbers: Callable[[ModelConfig], None],
    path_value: Callable[[Any], str | None],
) -> bytes:
    """A file's content with other numbers and paths, written in the one way in which such files are written."""
    if _is_config(relative):
        config = parse_config(content, where)
        numbers(config)
        for key in PATH_PARAMETERS:
            if key in config.parameters and (new := path_value(config.parameters[key].string_value)) is not None:
                config.parameters[key].string_value = new
        return print_config(config).encode()
    values = _read_mapping(relative, content, where)
    for key in PATH_FILES[relative.split("/")[-1]]:
        if (new := path_value(values.get(key))) is not None:
            values[key] = new
    return _write_mapping(relative, values)


def _read_mapping(relative: str, content: bytes, where: str) -> dict[str, Any]:
    import yaml

    try:
        values = json.loads(content) if relative.endswith(".json") else yaml.safe_load(content)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RepositoryError(f"cannot be read: {error}", where=where) from None
    if not isinstance(values, dict):
        raise RepositoryError("is not a mapping of names to values", where=where)
    return values


def _write_mapping(relative: str, values: dict[str, Any]) -> bytes:
    import yaml

    if relative.endswith(".json"):
        return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True, default_flow_style=False).encode()
