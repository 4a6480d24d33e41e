"""What a step knows of the cluster on which it runs: what was fixed when its pipeline was compiled.

It stands in one environment variable of every step. A process that is told its workspace by ENGINEPRESS_WORKSPACE, as a run on
this machine does, is on no cluster, whatever pipeline it came from: the same compiled file runs there, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from enginepress.errors import WorkspaceError

ENVIRONMENT = "ENGINEPRESS_CLUSTER"
WORKSPACE = "ENGINEPRESS_WORKSPACE"
SCRATCH = "ENGINEPRESS_SCRATCH"
"""Environment variable: a folder on a fast local disk, in which convert and build work before they copy to the workspace."""

SCRATCH_PATH = "/tmp"
"""Where a step's scratch volume is mounted: what knows nothing of us uses it, too."""


@dataclass(frozen=True)
class Cluster:
    """Fixed at compile time.

    Attributes:
        workspace: its mount path.
        mounts: paths at which volumes with stores, checkpoints or other files are mounted.
        scratch, shared_memory: bytes that convert, build and verify have of each.
        secrets: environment variables that hold a recipe's own secrets.
        image_prefix: registry mirror.
    """

    workspace: str
    mounts: tuple[str, ...]
    scratch: int
    shared_memory: int
    secrets: tuple[str, ...] = ()
    image_prefix: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Cluster | None:
        """The cluster that this process runs on, or None.

        Raises:
            WorkspaceError: if the variable was changed by hand into something that cannot be read.
        """
        environment = os.environ if environment is None else environment
        text = environment.get(ENVIRONMENT)
        if not text or environment.get(WORKSPACE):
            return None
        try:
            data = json.loads(text)
            return Cluster(**{**data, "mounts": tuple(data["mounts"]), "secrets": tuple(data["secrets"])})
        except (ValueError, TypeError, KeyError) as error:
            raise WorkspaceError(f"cannot be read: {error}", where=ENVIRONMENT, fix="compile the pipeline anew") from None

    def holds(self, path: str) -> bool:
        """Whether a path lies on a volume that is mounted into the steps."""
        wanted = Path(os.path.normpath(path))
        return any(wanted.is_relative_to(mount) for mount in (self.workspace, *self.mounts))

    def settle(self) -> None:
        """Makes this process at home: an arbitrary uid, as OpenShift gives, has no home that it could write to; convert and build
        work in the scratch volume, and keep the timings of kernels in the workspace; SIGTERM, which a pod gets before it is
        preempted, ends the step in order, so that its locks are free for the one that goes on with its work."""
        home = os.environ.get("HOME", "")
        if not home or not os.access(home, os.W_OK) or home == "/":
            os.environ["HOME"] = SCRATCH_PATH
        os.environ.setdefault(SCRATCH, SCRATCH_PATH)
        os.environ.setdefault("ENGINEPRESS_TIMING_CACHE", str(Path(self.workspace, "timings")))
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: FrameType | None) -> None:
    print("the step was asked to end (SIGTERM): what is finished is kept, and the next run goes on from there", file=sys.stderr)
    sys.exit(128 + number)
