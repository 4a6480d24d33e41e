"""Is this a model repository that Triton can serve? Checked offline, for any repository, made by enginepress or not.

`validate` reads files and runs nothing: no server, no GPU, no code of the repository. It takes a repository (a folder of
models) or a release (a folder with manifest.json beside repository/). Whatever it finds comes back as findings; only a path
that is not there is an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import EnginepressError, StoreError, UsageError
from enginepress.repository.checks_backend import backend_of, check_backend
from enginepress.repository.checks_config import check_config, check_layout
from enginepress.repository.checks_engine import check_engine, rootless_paths
from enginepress.repository.checks_ensemble import check_callers, check_ensemble, check_ensemble_cycles
from enginepress.repository.checks_files import check_files
from enginepress.repository.checks_release import MANIFEST, REPOSITORY, check_release, is_release, read_manifest
from enginepress.repository.findings import Finding, Severity, error, info, printable, warning
from enginepress.repository.inventory import CONFIG, Model, Repository, read_repository

Kind = Literal["repository", "unplaced", "release"]

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class ValidationResult:
    """What validate found.

    Attributes:
        kind: "unplaced" for a repository with version folders 0, as `assemble` makes it.
        release: the release number, of a release or of a repository whose models all have this one version.
        models: names of the Triton models.
        findings: errors first.
    """

    path: Path
    kind: Kind
    release: int | None
    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing stands against serving it."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def shown_path(self) -> str:
        return printable(str(self.path))

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.shown_path,
            "kind": self.kind,
            "release": self.release,
            "ok": self.ok,
            "models": [printable(name) for name in self.models],
            "findings": [finding.to_json() for finding in self.findings],
        }


def validate(path: Path) -> ValidationResult:
    """Checks a model repository or a release.

    Raises:
        UsageError: if there is nothing at `path`.
    """
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UsageError("there is no such folder", where=printable(str(path)), fix="name a model repository or a release folder")
    if not path.is_dir():
        return _unusable(path, "is a file; a model repository is a folder of models")
    if is_release(path):
        return _validate_release(path)
    if inside := _releases_in(path):
        return _unusable(path, "is a store's folder, not a repository", f"name one release, e.g. {inside}")
    if (path / CONFIG).exists():
        return _unusable(path, "is one model; a repository is the folder above it")
    repository, unread = read_repository(path)
    kind: Kind = "unplaced" if repository.unplaced else "repository"
    release = None if repository.unplaced else repository.version
    return _result(path, kind, release, repository, [*unread, *_check(repository)])


def _validate_release(path: Path) -> ValidationResult:
    repository, unread = read_repository(path / REPOSITORY)
    findings = [_below(finding) for finding in [*unread, *_check(repository, released=True)]]
    try:
        manifest = read_manifest(path)
    except StoreError as problem:
        findings.append(error(None, MANIFEST, problem.message, problem.fix))
        return _result(path, "release", repository.version, repository, findings)
    findings += check_release(path, repository, manifest)
    return _result(path, "release", manifest.release, repository, findings)


def _check(repository: Repository, *, released: bool = False) -> Iterator[Finding]:
    if not repository.models:
        yield error(None, ".", "has no models: there is no folder in it", "name the folder that holds the models' folders")
        return
    if repository.unplaced:
        yield info(
            None,
            ".",
            "is unplaced: its version folders are 0, which is no release's number",
            "publish it; servers read a release or a channel",
        )
    for model in repository.models.values():
        yield from _check_model(repository, model)
    yield from check_ensemble_cycles(repository)
    yield from _check_roots(repository, released=released)


def _check_model(repository: Repository, model: Model) -> Iterator[Finding]:
    if not model.has_config and backend_of(model) is None:
        yield from check_backend(repository, model)
        return
    for check in (check_layout, check_config):
        yield from check(model)
    for check_within in (check_files, check_backend, check_engine, check_ensemble, check_callers):
        try:
            yield from check_within(repository, model)
        except (EnginepressError, OSError) as problem:
            # A file that vanishes or turns unreadable while it is being looked at.
            yield error(model.name, model.name, f"cannot be checked: {problem}")


def _check_roots(repository: Repository, *, released: bool) -> Iterator[Finding]:
    """Paths without their readers' root. A release's have none; a repository that somebody is about to serve needs it."""
    make = info if released or repository.unplaced else warning
    for model in repository.models.values():
        for file, field, value in rootless_paths(model):
            yield make(
                model.name,
                file,
                f"{field}: {value} has no root yet, so a server would not find it",
                "servers read a channel's folder, or what `enginepress pull` wrote",
            )


def _below(finding: Finding) -> Finding:
    """A finding about a release's repository, with its path from the release's folder."""
    file = REPOSITORY if finding.file == "." else f"{REPOSITORY}/{finding.file}"
    return replace(finding, file=file)


def _releases_in(path: Path) -> str | None:
    """A release or channel below a store, or below one model's folder in a store; None if `path` is neither."""
    for pattern in ("channels/*", "releases/[0-9]*", "*/channels/*", "*/releases/[0-9]*"):
        found = sorted(p for p in path.glob(pattern) if (p.parent.parent / "model.json").is_file())
        if found:
            return printable(str(found[-1]))
    return None


def _unusable(path: Path, message: str, fix: str = "name the folder that holds the models' folders") -> ValidationResult:
    finding = error(None, ".", message, fix)
    return ValidationResult(path, "repository", None, (), (finding,))


def _result(path: Path, kind: Kind, release: int | None, repository: Repository, findings: list[Finding]) -> ValidationResult:
    ordered = sorted(findings, key=lambda f: (_ORDER[f.severity], f.file))
    unique = tuple(dict.fromkeys(ordered))
    return ValidationResult(path, kind, release, tuple(repository.models), unique)
