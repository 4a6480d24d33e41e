"""Every error that enginepress raises on purpose.

Each error says what is wrong, where, and what to do next; the command line prints exactly that and no traceback.
A traceback that reaches a user is a bug.

An error also travels as JSON, because a step runs in a process of its own: kfp's runner reports only that an inner task
failed, so the step leaves its error in the workspace and the parent reads it back (`enginepress.run.local`).
"""

from __future__ import annotations

from typing import Any

# ------------------------------------------------------------------------------------------------------------------
# Base
# ------------------------------------------------------------------------------------------------------------------


class EnginepressError(Exception):
    """Base of all errors below.

    Attributes:
        message: what is wrong, one sentence, naming the value.
        where: the field, file or address that it is about, or None.
        fix: what to do next, if possible a command; if the caller knows nothing better, what helps with errors of its kind.
        exit_status: what the command line ends with: 2 for a wrong recipe, source or usage, 1 for failed work.
        final: it stays the same however often the same is tried: what was asked for is wrong, or a tool or the gate said no.
    """

    exit_status = 1
    final = False
    usual_fix: str | None = None

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.message = message
        self.where = where
        self.fix = fix or self.usual_fix
        super().__init__(message if where is None else f"{where}: {message}")

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"error: {self}", *([f"next:  {self.fix}"] if self.fix else [])]

    def to_json(self) -> dict[str, Any]:
        return {"type": type(self).__name__, "message": self.message, "where": self.where, "fix": self.fix}


def error_from_json(data: dict[str, Any]) -> EnginepressError:
    """The error that `to_json` described; an unknown type becomes an EnginepressError."""
    known = {cls.__name__: cls for cls in _all_subclasses(EnginepressError)}
    cls = known.get(str(data.get("type")), EnginepressError)
    error = cls.__new__(cls)
    EnginepressError.__init__(error, str(data["message"]), where=data.get("where"), fix=data.get("fix"))
    return error


def _all_subclasses(cls: type[EnginepressError]) -> list[type[EnginepressError]]:
    direct = cls.__subclasses__()
    return direct + [sub for child in direct for sub in _all_subclasses(child)]


# ------------------------------------------------------------------------------------------------------------------
# What a user wrote or named: exit status 2
# ------------------------------------------------------------------------------------------------------------------


class UsageError(EnginepressError):
    """Raised when a command was given arguments that make no sense together."""

    exit_status = 2
    final = True


class RecipeError(EnginepressError):
    """Raised when a recipe cannot be read or says something impossible."""

    exit_status = 2
    final = True
    usual_fix = "change the recipe; `enginepress schema` prints every field with its meaning"


class SourceError(EnginepressError):
    """Raised when a checkpoint cannot be had, is incomplete, damaged, unsafe or not what its source published."""

    exit_status = 2
    usual_fix = "mend the checkpoint where it came from, or name another one in `source.uri`, and run again"


class UnsupportedModelError(SourceError):
    """Raised when the recipe's builder cannot build or run this checkpoint; names the builders that can."""

    final = True


class UnsafePathError(SourceError):
    """Raised when a path leaves the folder that it belongs to (`..`, absolute, a symbolic link out)."""

    final = True


# ------------------------------------------------------------------------------------------------------------------
# What failed while working: exit status 1
# ------------------------------------------------------------------------------------------------------------------


class WorkspaceError(EnginepressError):
    """Raised when the workspace cannot be used: unwritable, full, or a complete output was changed from outside."""


class LockedError(WorkspaceError):
    """Raised when somebody else holds a lock and waiting was not wanted; says who holds it."""


class BuildError(EnginepressError):
    """Raised when converting or building failed; carries the last lines of the tool's log."""

    final = True


class RunEndedError(EnginepressError):
    """Raised when a run was ended from outside before it had finished."""

    usual_fix = "run the recipe again: finished steps are kept, and it goes on where it stopped"


class RepositoryError(EnginepressError):
    """Raised when a model repository is not one that Triton could serve."""

    final = True


class ServerError(EnginepressError):
    """Raised when a Triton server cannot be started, never gets ready, or dies."""


class GateError(EnginepressError):
    """Raised when a served model does not do what the recipe's checks demand. Never a complete output."""

    final = True


class StoreError(EnginepressError):
    """Raised when a store cannot be read or written, or holds something that its manifest does not say."""

    usual_fix = "`enginepress doctor TARGET` looks at the store and says what is wrong with it"


class SignatureError(StoreError):
    """Raised when a release is not signed, or not by whom it must be, or the signature is that of something else."""

    usual_fix = "`enginepress verify STORE` says which releases are signed, and by whom"


class RegistryError(EnginepressError):
    """Raised when the registry cannot be reached or refuses; what was published stays published."""


class ClusterError(EnginepressError):
    """Raised when Kubeflow's API cannot be reached or refuses, or a run on it failed; says what to do next."""
