"""Which Triton container holds what, and which one a recipe gets: versions.yaml, typed.

`load_matrix()` gives all rows, newest first; `choose(recipe)` the row that a recipe asks for, or the newest that can do what it
asks. A row refuses with a reason and a way on; a cell that nobody could source is None and counts as unsupported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from enginepress.engines.tables import load_table
from enginepress.errors import RecipeError
from enginepress.recipe import Recipe

if TYPE_CHECKING:
    from enginepress.engines.gpus import Gpu

FIELD = "engine.container"


@dataclass(frozen=True)
class Container:
    """One Triton container.

    Attributes:
        tag: of the release, "26.07".
        kind: "trtllm" or "vllm".
        image: full reference.
        python, tensorrt_llm, tensorrt, vllm, cuda: versions; None for what it does not hold or nobody could source.
        driver: version that its CUDA came with. Older ones work too, down to `Matrix.oldest_driver`.
        template: folder in `model_repo_templates/` for the `tensorrt_llm` or `vllm` builder.
        size_gb: of the image, compressed, GB.
        builders: names of those that it serves.
        refused: builder -> why not.
        precisions: compute capability ("90") -> precisions, for the builder that the container is named after.
        by_builder: builder -> compute capability -> precisions.
        kv_cache: builder -> compute capability -> precisions of the KV cache beside 16 bit.
        renamed: name in the newest release -> name in this one, None for what this one does not have.
        sources: column -> where its value was read.
    """

    tag: str
    kind: str
    image: str
    python: str | None
    tensorrt_llm: str | None
    tensorrt: str | None
    vllm: str | None
    cuda: str | None
    driver: str | None
    template: str | None
    size_gb: float | None
    builders: tuple[str, ...]
    refused: Mapping[str, str]
    precisions: Mapping[str, tuple[str, ...]]
    by_builder: Mapping[str, Mapping[str, tuple[str, ...]]]
    kv_cache: Mapping[str, Mapping[str, tuple[str, ...]]]
    renamed: Mapping[str, str | None]
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> str:
        """The package that makes and runs engines, with its version, for messages."""
        if self.kind == "vllm":
            return f"vLLM {self.vllm or 'of unknown version'}"
        return f"TensorRT-LLM {self.tensorrt_llm or 'of unknown version'}"

    def can(self, builder: str, sm: str) -> tuple[str, ...]:
        """Precisions of this builder on this compute capability; empty if nothing is known of it."""
        return self.by_builder.get(builder, {}).get(sm, ())

    def can_cache(self, builder: str, sm: str) -> tuple[str, ...]:
        """Precisions of the KV cache, beside 16 bit."""
        return self.kv_cache.get(builder, {}).get(sm, ())


@dataclass(frozen=True)
class Matrix:
    """All containers, newest first, of both kinds."""

    rows: tuple[Container, ...]
    builders: Mapping[str, Mapping[str, Any]]
    drivers: Mapping[int, int]

    def kind(self, builder: str) -> str | None:
        """Kind of container that a builder needs; None for one that needs no container."""
        rule = self.builders.get(builder)
        return str(rule["container"]) if rule is not None else None

    def of_kind(self, kind: str) -> tuple[Container, ...]:
        return tuple(row for row in self.rows if row.kind == kind)

    def container(self, tag: str, kind: str = "trtllm") -> Container:
        """The row of this tag.

        Raises:
            RecipeError: for a tag that is not listed, naming the nearest.
        """
        rows = self.of_kind(kind)
        for row in rows:
            if row.tag == tag:
                return row
        tags = [row.tag for row in rows]
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0.0)
        known = f"{tags[-1]} to {tags[0]}"
        raise RecipeError(
            f"Triton {tag} has no {kind} container that is known here; known are {known}",
            where=FIELD,
            fix=f"use {near[0] if near and tags[-1] < tag < tags[0] else tags[0] if tag > tags[0] else tags[-1]}, "
            "or leave it out for the newest that can",
        )

    def last(self, builder: str) -> Container | None:
        """The newest container that serves this builder."""
        return next((row for row in self.rows if builder in row.builders), None)

    def oldest_driver(self, container: Container) -> int | None:
        """The oldest driver branch ("525") that runs this container's CUDA; None if its CUDA is not known."""
        return self.drivers.get(int(container.cuda.split(".")[0])) if container.cuda else None

    def driver_for(self, container: Container, gpu: Gpu | None) -> int | None:
        """The oldest driver branch that runs this container's CUDA and knows this GPU."""
        known = [n for n in (self.oldest_driver(container), gpu.driver if gpu is not None else None) if n is not None]
        return max(known, default=None)


def version_key(text: str) -> tuple[int, ...]:
    """For comparing: the leading numbers of a version; a pre-release stands before its release.

    >>> version_key("1.3.0rc20") < version_key("1.3.0") < version_key("1.3.0.post1")
    True
    """
    match = re.match(r"\d+(?:\.\d+)*", text)
    numbers = [int(n) for n in match.group().split(".")] if match else []
    rest = text[match.end() :] if match else text
    before = -1 if re.match(r"[.-]?(rc|a|b|alpha|beta|dev)", rest) else 0
    return (*numbers, *[0] * (4 - len(numbers)), before, 1 if "post" in rest else 0)


# Reading --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def load_matrix() -> Matrix:
    """versions.yaml."""
    return parse_matrix(load_table("versions"))


def parse_matrix(table: Mapping[str, Any]) -> Matrix:
    """The table as it is in versions.yaml, typed."""
    rows = []
    for kind, containers in table["containers"].items():
        for tag, cells in containers["rows"].items():
            line = table["lines"][kind][cells["line"]]
            rows.append(_container(table, kind, str(tag), cells, line))
    rows.sort(key=lambda row: row.tag, reverse=True)  # tags are YY.MM; of one tag, trtllm stays before vllm
    return Matrix(tuple(rows), table["builders"], table["drivers"]["minimum"])


def _container(table: Mapping[str, Any], kind: str, tag: str, cells: Mapping[str, Any], line: Mapping[str, Any]) -> Container:
    refused = {name: reason for name, rule in table["builders"].items() if (reason := _refusal(name, rule, kind, cells, line))}
    by_builder = _by_builder(line["precisions"])
    named_after = "tensorrt_llm" if kind == "trtllm" else kind
    return Container(
        tag=tag,
        kind=kind,
        image=table["containers"][kind]["image"].format(tag=tag),
        python=cells.get("python"),
        tensorrt_llm=cells.get("tensorrt_llm"),
        tensorrt=cells.get("tensorrt"),
        vllm=cells.get("vllm"),
        cuda=cells.get("cuda"),
        driver=cells.get("driver"),
        template=line["template"],
        size_gb=cells.get("size_gb"),
        builders=tuple(name for name in table["builders"] if name not in refused),
        refused=refused,
        precisions=by_builder.get(named_after, {}),
        by_builder=by_builder,
        kv_cache=_by_builder(line["kv_cache"]),
        renamed=dict(line["renamed"] or {}),
        sources=_sources(table, {**table["containers"][kind]["sources"], **line["sources"], **cells.get("sources", {})}),
    )


def _by_builder(value: Mapping[str, Any] | None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Cells without a source are left out, and so count as unsupported."""
    return {
        builder: {str(sm): tuple(precisions) for sm, precisions in cells.items() if precisions is not None}
        for builder, cells in (value or {}).items()
    }


def _sources(table: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, str]:
    named = table["sources"]
    return {column: "; ".join(named[k] for k in ([key] if isinstance(key, str) else key)) for column, key in keys.items()}


def _refusal(builder: str, rule: Mapping[str, Any], kind: str, cells: Mapping[str, Any], line: Mapping[str, Any]) -> str | None:
    """Why this container does not serve this builder, or None."""
    if rule["container"] != kind:
        return f"it needs a {rule['container']} container, and this is the {kind} one"
    package, version = rule["package"], cells.get(rule["package"])
    if version is None:
        return f"which {package} it holds is not known, so nothing that it can do is"
    if version_key(version) < version_key(rule["first"]):
        return f"it holds {package} {version}, and {rule['before']} (from {rule['first']} on)"
    if rule["last"] is not None and version_key(version) > version_key(rule["last"]):
        return f"it holds {package} {version}: {rule['after']}"
    if line["precisions"] is None or builder not in line["precisions"]:
        return f"what {builder} can do with {package} {version} is not known here"
    return None


# Choosing -------------------------------------------------------------------------------------------------------------


def choose(recipe: Recipe, matrix: Matrix | None = None) -> Container:
    """The container that a recipe asks for, or the newest that does builder, precision and KV cache on its GPU.

    `image` is the recipe's own if it names one.

    Raises:
        RecipeError: if there is none, with the reason and what would do.
    """
    matrix = matrix or load_matrix()
    engine = recipe.engine
    kind = matrix.kind(engine.builder)
    if kind is None:
        raise RecipeError(f"builder '{engine.builder}' needs no container", where=FIELD, fix="leave engine.container out")
    if engine.container is not None:
        row = asked_for(recipe, matrix)
        if reason := cannot(recipe, row):
            raise reason
    else:
        row = _newest(recipe, matrix, kind)
    return replace(row, image=engine.image) if engine.image is not None else row


def asked_for(recipe: Recipe, matrix: Matrix) -> Container:
    """The row of `engine.container`, if it serves the builder; what it can do on the GPU is not asked.

    Raises:
        RecipeError: unknown tag, or a container that does not serve the builder.
    """
    builder, tag = recipe.engine.builder, str(recipe.engine.container)
    kind = matrix.kind(builder) or "trtllm"
    newest = matrix.last(builder)
    rows = matrix.of_kind(kind)
    if rows and tag > rows[0].tag:
        instead = matrix.builders[builder]["instead"]
        ended = matrix.builders[builder]["last"] is not None
        raise RecipeError(
            f"what Triton {tag} holds is not known here; the newest known {kind} container is {rows[0].tag} with {rows[0].holds}"
            + (f". {matrix.builders[builder]['after']}" if ended else ""),
            where=FIELD,
            fix=(f"use {newest.tag}, the last that is known to have it" if newest else "leave it out")
            + (f"; engine.builder: {instead} is the way on" if ended and instead else ""),
        )
    row = matrix.container(tag, kind)
    if builder in row.builders:
        return row
    rule = matrix.builders[builder]
    ended = rule["last"] is not None and row.tag > (newest.tag if newest else "")
    way_on = f"; engine.builder: {rule['instead']} is the way on" if ended and rule["instead"] else ""
    last = ", the last that has it" if ended else ""
    raise RecipeError(
        f"builder '{builder}' does not work in Triton {row.tag}: {row.refused[builder]}",
        where=FIELD,
        fix=(f"use {newest.tag}{last} ({newest.holds})" if newest else "leave it out") + way_on,
    )


def cannot(recipe: Recipe, row: Container) -> RecipeError | None:
    """Why this container cannot do the recipe's precision or KV cache on its GPU; None if it can, or if no GPU is named."""
    engine = recipe.engine
    if engine.gpu is None:
        return None
    from enginepress.engines import gpus

    gpu = gpus.find(engine.gpu.name)
    return gpus.unsupported(gpu, engine.builder, engine.precision, engine.kv_cache, row)


def _newest(recipe: Recipe, matrix: Matrix, kind: str) -> Container:
    first: RecipeError | None = None
    for row in matrix.of_kind(kind):
        if recipe.engine.builder in row.builders:
            reason = cannot(recipe, row)
            if reason is None:
                return row
            first = first or reason  # of the newest: the others know less
    if first is not None:
        raise first
    raise RecipeError(f"no container is known that serves builder '{recipe.engine.builder}'", where="engine.builder")


# Drivers --------------------------------------------------------------------------------------------------------------


def check_driver(container: Container, driver: str, matrix: Matrix | None = None, *, gpu: Gpu | None = None) -> None:
    """Whether a machine's driver ("535.104.05") runs this container, and knows this GPU.

    CUDA's minor versions are compatible with each other from the oldest driver branch of their major version on
    (NVIDIA, CUDA Compatibility, minor version compatibility).

    Raises:
        RecipeError: saying both versions.
    """
    oldest = (matrix or load_matrix()).oldest_driver(container)
    match = re.match(r"\d+", driver)
    if match is None:
        raise RecipeError(f"{driver!r} is no version of a driver", fix="nvidia-smi prints it, e.g. 580.95.05")
    if gpu is not None and gpu.driver is not None and int(match.group()) < gpu.driver:
        raise RecipeError(
            f"driver {driver} is too old for {gpu.name}: {gpu.architecture} needs driver {gpu.driver} or newer",
            where="--driver",
            fix=f"install driver {(matrix or load_matrix()).driver_for(container, gpu)} or newer on the machine",
        )
    if oldest is not None and int(match.group()) < oldest:
        raise RecipeError(
            f"driver {driver} is too old for Triton {container.tag}: its CUDA {container.cuda} needs driver {oldest} or newer "
            f"(it came with {container.driver})",
            where=FIELD,
            fix=f"install driver {oldest} or newer on the machine"
            + _older(container, int(match.group()), matrix or load_matrix()),
        )


def _older(container: Container, branch: int, matrix: Matrix) -> str:
    """The newest container with the same builders that the driver runs, as an alternative."""
    for row in matrix.of_kind(container.kind):
        oldest = matrix.oldest_driver(row)
        if row.builders and oldest is not None and oldest <= branch:
            return f", or use container {row.tag} ({row.holds}, CUDA {row.cuda})"
    return ""
