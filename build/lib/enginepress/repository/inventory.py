"""A repository as it lies on disk, read once for all checks: models, version folders, files, parsed configs.

Nothing here judges, except what cannot be read at all. Only regular files are opened, and only their beginning if they can
be large: a pipe, a device or a folder in a file's place must not hang or break the checks.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from enginepress.errors import EnginepressError, RepositoryError
from enginepress.repository.config import MAX_BYTES, parse_config
from enginepress.repository.findings import Finding, error
from enginepress.repository.proto import ModelConfig

CONFIG = "config.pbtxt"
SPECIAL_FOLDERS = frozenset({"warmup", "initial_state", "configs"})
"""Folders of a model that Triton does not take for versions."""

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Entry:
    """One file: path relative to its model's folder, size, and whether it is a symbolic link or no regular file at all."""

    path: str
    size: int
    link: bool = False
    regular: bool = True


@dataclass(frozen=True)
class Model:
    """One Triton model.

    Attributes:
        config: None if there is none, or it cannot be parsed.
        has_config: whether there is a config.pbtxt, readable or not.
        versions: numbered folders, in numeric order.
        odd_folders: other folders that Triton might take for versions.
        entries: every file under the model's folder, by path relative to it.
    """

    name: str
    folder: Path
    config: ModelConfig | None
    has_config: bool
    versions: tuple[int, ...]
    odd_folders: tuple[str, ...]
    entries: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def config_file(self) -> str:
        return f"{self.name}/{CONFIG}"

    @property
    def is_ensemble(self) -> bool:
        return self.config is not None and (self.config.platform == "ensemble" or self.config.HasField("ensemble_scheduling"))

    def parameter(self, key: str) -> str | None:
        """A string parameter of the config, or None if it is not set."""
        if self.config is None or key not in self.config.parameters:
            return None
        return str(self.config.parameters[key].string_value)

    def served_versions(self) -> tuple[int, ...]:
        """The versions that Triton would load by the version policy."""
        policy = None if self.config is None else self.config.version_policy
        kind = None if policy is None else policy.WhichOneof("policy_choice")
        if policy is not None and kind == "specific":
            return tuple(v for v in self.versions if v in set(policy.specific.versions))
        if kind == "all":
            return self.versions
        count = 1 if policy is None or kind is None else max(policy.latest.num_versions, 0)
        return self.versions[max(len(self.versions) - count, 0) :]

    def files_under(self, folder: str) -> dict[str, Entry]:
        """Files below a folder of the model, by path relative to that folder."""
        prefix = folder + "/"
        return {path[len(prefix) :]: entry for path, entry in self.entries.items() if path.startswith(prefix)}

    def read(self, relative: str, limit: int = MAX_BYTES) -> bytes | None:
        """The first `limit` bytes of a regular file; None if it is none or cannot be read."""
        return read_regular(self.folder / relative, limit)


@dataclass(frozen=True)
class Repository:
    """A folder of models."""

    root: Path
    models: Mapping[str, Model]

    @property
    def version(self) -> int | None:
        """The one version that every model has, or None if there is no such version."""
        versions = {model.versions for model in self.models.values()}
        only = next(iter(versions)) if len(versions) == 1 else ()
        return only[0] if len(only) == 1 else None

    @property
    def unplaced(self) -> bool:
        return self.version == 0


def read_regular(path: Path, limit: int) -> bytes | None:
    """The first `limit` bytes of a regular file, or None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        try:
            return stream.read(limit)
        except OSError:
            return None


def read_repository(root: Path) -> tuple[Repository, list[Finding]]:
    """Every model of a repository, and what could not be read."""
    findings: list[Finding] = []
    models: dict[str, Model] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as problem:
        return Repository(root, {}), [error(None, ".", f"cannot be listed: {problem.strerror}", "check the folder's rights")]
    for name in names:
        models[name] = _read_model(root / name, findings)
    return Repository(root, models), findings


def _read_model(folder: Path, findings: list[Finding]) -> Model:
    name = folder.name
    entries = _read_entries(folder, findings)
    versions, odd = [], []
    for child in sorted({path.split("/")[0] for path in entries if "/" in path} | _subfolders(folder)):
        if _VERSION.fullmatch(child):
            versions.append(int(child))
        elif child not in SPECIAL_FOLDERS:
            odd.append(child)
    config = _read_config(folder, entries.get(CONFIG), findings)
    return Model(name, folder, config, CONFIG in entries, tuple(sorted(versions)), tuple(odd), entries)


def _subfolders(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except OSError:
        return set()


def _read_entries(folder: Path, findings: list[Finding]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}

    def unreadable(problem: OSError) -> None:
        path = os.path.relpath(problem.filename or folder, folder.parent)
        findings.append(error(folder.name, path, f"cannot be listed: {problem.strerror}", "check the folder's rights"))

    for base, folders, names in os.walk(folder, onerror=unreadable, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        for name in [*names, *links]:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            link = os.path.islink(path)
            try:
                status = os.stat(path)
            except OSError:
                entries[relative] = Entry(relative, 0, link, regular=False)
            else:
                entries[relative] = Entry(relative, status.st_size, link, regular=stat.S_ISREG(status.st_mode))
    return dict(sorted(entries.items()))


def _read_config(folder: Path, entry: Entry | None, findings: list[Finding]) -> ModelConfig | None:
    where = f"{folder.name}/{CONFIG}"
    if entry is None:
        if (folder / CONFIG).is_dir():
            findings.append(error(folder.name, where, "is a folder, not a file"))
        return None
    content = read_regular(folder / CONFIG, MAX_BYTES + 1)
    if content is None:
        findings.append(error(folder.name, where, "cannot be read, or is no regular file", "check the file and its rights"))
        return None
    try:
        return parse_config(content, where)
    except RepositoryError as problem:
        findings.append(error(folder.name, where, problem.message, problem.fix))
    except EnginepressError as problem:
        findings.append(error(folder.name, where, str(problem), problem.fix))
    return None
