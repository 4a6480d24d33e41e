"""What is fixed when a pipeline is compiled for a cluster. Everything else is a parameter of the run.

Kubeflow takes mount paths, sizes of shared memory and scratch, environment variables, labels, time-outs, retries and how many
branches run at once from the compiled file only. Each has a default that is safe; `resolve` holds it against what the recipe
needs before anything is downloaded (`enginepress.steps.placement`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from enginepress import __version__
from enginepress.errors import UsageError

DEFAULT_IMAGE = f"enginepress/enginepress-python:{__version__}"

KNOWN_SECRETS = {
    "source": ("HF_TOKEN", "HF_ENDPOINT", "NGC_API_KEY", "NGC_CLI_API_URL"),
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"),
    "registry": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    "recipe": (),
}
"""What a Secret is for -> its keys, which are the environment variables that a step gets. Each may be missing. The Secret of
`recipe` has the variables of `CompileOptions.secrets`."""

_QUANTITY = re.compile(r"(\d{1,18})(Ki|Mi|Gi|Ti|K|M|G|T)?")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
IMAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_PROXY = re.compile(r"https?://[^\s/@]+/?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Mount:
    """A PersistentVolumeClaim beside those of workspace and store, at the same path in every step that reads or publishes."""

    pvc: str
    path: str


@dataclass(frozen=True)
class CompileOptions:
    """What is fixed at compile time.

    Attributes:
        image: what steps run in if the run names no other; best with @sha256:…
        workspace: mount path of the PVC that the parameter `workspace_pvc` names.
        store: mount path of the PVC that the parameter `store_pvc` names; None if no store lies on a volume.
        mounts: further volumes.
        scratch: size limit of the scratch volume of convert, build and verify; a quantity, as "200Gi".
        scratch_class: storage class of a generic ephemeral volume for it; None takes an emptyDir on the node's own disk.
        shared_memory: size limit of /dev/shm in these steps.
        parallelism: recipes that rebuild_on_new_checkpoints builds at a time.
        retries: of steps that were killed, evicted or cut off from a network.
        timeout_h: hours that each of download, convert, build and verify may take.
        security_context: whether steps are asked not to be root. Kubeflow before 2.16 refuses a pipeline that says so; there
            it is for the cluster to demand, as OpenShift does.
        report: whether an exit handler reports how a run ended. Runs on this machine report by themselves.
        secrets: environment variables that recipes name as ${NAME}, beside those of KNOWN_SECRETS.
        recipes: where rebuild_on_new_checkpoints finds recipes: a ConfigMap, or a PVC, as Git-sync fills it.
        recipes_path: where that is mounted.
        image_prefix: registry mirror that stands before each image's path instead of its registry.
        pull_secrets: names of the Secrets that images are pulled with.
        http_proxy, https_proxy, no_proxy: as environment variables in every step.
        ca_config_map: ConfigMap whose key ca-bundle.crt every step trusts.
        queue, priority: Kueue's local queue and workload priority class.
    """

    image: str = ""
    workspace: str = "/workspace"
    store: str | None = "/mnt/models"
    mounts: tuple[Mount, ...] = ()
    scratch: str = "200Gi"
    scratch_class: str | None = None
    shared_memory: str = "16Gi"
    parallelism: int = 2
    retries: int = 2
    timeout_h: float = 12
    security_context: bool = True
    report: bool = True
    secrets: tuple[str, ...] = ()
    recipes: Literal["configmap", "pvc"] = "configmap"
    recipes_path: str = "/recipes"
    image_prefix: str = ""
    pull_secrets: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    ca_config_map: str = ""
    queue: str = ""
    priority: str = ""

    def __post_init__(self) -> None:
        if not self.image:
            object.__setattr__(self, "image", os.environ.get("ENGINEPRESS_IMAGE") or DEFAULT_IMAGE)
        paths = [self.workspace, *([self.store] if self.store else []), *(m.path for m in self.mounts), self.recipes_path]
        for path in paths:
            _check_mount_path(path)
        for one in paths:
            for other in paths:
                if one != other and PurePosixPath(one).is_relative_to(other):
                    raise UsageError(f"mounts {one} inside {other}", where="mount path", fix="give each volume a path of its own")
        if len(set(paths)) != len(paths):
            raise UsageError("mounts two volumes at one path", where="mount path", fix="give each volume a path of its own")
        for name in (*self.pull_secrets, *(m.pvc for m in self.mounts), *([self.ca_config_map] if self.ca_config_map else [])):
            if not OBJECT_NAME.fullmatch(name):
                raise UsageError(f"'{name}' is no name of a Kubernetes object", fix="use a-z, 0-9, - and .")
        for name in self.secrets:
            if not _VARIABLE.fullmatch(name):
                raise UsageError(f"'{name}' is no name of an environment variable", where="--secret")
        for option, value in (("--queue", self.queue), ("--priority", self.priority)):
            if value and not _LABEL.fullmatch(value):
                raise UsageError(f"'{value}' is no value of a label", where=option)
        bytes_of(self.scratch, where="--scratch")
        bytes_of(self.shared_memory, where="--shared-memory")
        for option, fits, range_ in (
            ("--parallelism", 1 <= self.parallelism <= 1000, "1 to 1000"),
            ("--retries", 0 <= self.retries <= 100, "0 to 100"),
            ("--timeout-h", 1 <= self.timeout_h * 3600 <= 365 * 86_400, "hours, from a second to a year"),
        ):
            if not fits:
                raise UsageError(f"is {range_}", where=option)
        for option, value in (("--image", self.image), ("--image-prefix", self.image_prefix)):
            if value and (not IMAGE_NAME.fullmatch(value) or "://" in value):
                raise UsageError(f"'{value}' is no name of an image", where=option, fix="write REGISTRY/NAME, without https://")
        if self.scratch_class is not None and not OBJECT_NAME.fullmatch(self.scratch_class):
            raise UsageError(f"'{self.scratch_class}' is no name of a storage class", where="--scratch-class")
        for option, value in (("--http-proxy", self.http_proxy), ("--https-proxy", self.https_proxy)):
            if "@" in value:
                raise UsageError(
                    "a compiled pipeline holds no secret, and a proxy's password is one",
                    where=option,
                    fix="use a proxy that knows the cluster's own addresses, or let the cluster set the variable",
                )
            if value and not _PROXY.fullmatch(value):
                raise UsageError(f"'{value}' is no address of a proxy", where=option, fix="write http://NAME:PORT")

    @property
    def pinned(self) -> bool:
        """Whether the image is named by its digest, so that all steps of all runs take the same one."""
        return bool(re.search(r"@sha256:[0-9a-f]{64}$", self.image))


def local_options() -> CompileOptions:
    """For a run on this machine: steps that retry by themselves are not retried, and the run reports by itself."""
    return CompileOptions(retries=0, report=False)


def bytes_of(quantity: str, *, where: str) -> int:
    """Bytes of a Kubernetes quantity.

    >>> bytes_of("2Gi", where="")
    2147483648

    Raises:
        UsageError: for what is none.
    """
    match = _QUANTITY.fullmatch(quantity)
    if match is None or not 0 < int(match[1]) < 2**60:
        raise UsageError(f"'{quantity}' is no size", where=where, fix="write a number with its unit, as 200Gi")
    return int(match[1]) * _UNITS[match[2] or ""]


def mirrored(image: str, prefix: str) -> str:
    """An image's reference in a registry mirror that keeps paths and digests: its registry is replaced by the prefix.

    >>> mirrored("nvcr.io/nvidia/tritonserver:26.07-py3", "mirror.site/apps")
    'mirror.site/apps/nvidia/tritonserver:26.07-py3'
    """
    if not prefix or not image or image.startswith(prefix.rstrip("/") + "/"):
        return image
    first, slash, rest = image.partition("/")
    registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return f"{prefix.rstrip('/')}/{rest if registry else image}"


def _check_mount_path(path: str) -> None:
    odd = ".." in path.split("/") or re.search(r"[:\s\x00]", path)
    if not path.startswith("/") or path == "/" or str(PurePosixPath(path)) != path or odd:
        raise UsageError(f"'{path}' is no mount path", fix="write an absolute path, as /workspace")
    if path in ("/tmp", "/dev/shm") or path.startswith(("/tmp/", "/dev/", "/proc", "/sys", "/etc")):
        raise UsageError(f"{path} belongs to the system", where="mount path", fix="choose another path")
