"""Which files of a source a build needs. Pure but for `read`, which is asked for the index of the weights and nothing else.

Taken, from the top level only:
  config.json, generation_config.json, quantization settings
  tokenizer.json (needed: the server reads no other form) and the files that go with it, the chat template
  weights in one format: model.safetensors, or the shards that model.safetensors.index.json names
  pytorch_model.bin or its shards instead, if there is no safetensors and the recipe has `source.allow_pickle`
  *.py, if the recipe has `source.trust_remote_code`
  LICENSE*, NOTICE*, USE_POLICY*, COPYING* below 1 MB: they must go where the weights go

Everything else is unused: other formats and copies of the same weights (original/, consolidated*, *.gguf, onnx/), weights in
other precisions (model.fp16.safetensors), pictures, examples. What is taken makes the revision's digest; a changed
README does not lead to a new build, a changed licence does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from enginepress.errors import SourceError, UnsafePathError
from enginepress.files import check_relative
from enginepress.sources.weights import INDEX, PICKLE_INDEX, parse_index

SETTINGS = ("config.json", "generation_config.json", "hf_quant_config.json", "quantize_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
MAX_LICENCE_BYTES = 1_000_000
MAX_OTHER_BYTES = 256 * 1024 * 1024
"""For what is no weights. The largest tokenizers have a tenth of that."""

MAX_NAME_BYTES = 255

_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|COPYING)([._-].*)?", re.IGNORECASE)
_VARIANT = re.compile(r"model\.([A-Za-z0-9_]+)(-\d+-of-\d+)?\.safetensors|model-\d+-of-\d+\.([A-Za-z0-9_]+)\.safetensors")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors|model\.safetensors-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHER_FORMATS = (".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".mlpackage", ".nemo")


@dataclass(frozen=True)
class Selection:
    """Paths that a build needs, and those that it does not; both sorted."""

    files: tuple[str, ...]
    unused: tuple[str, ...]


def select(
    sizes: Mapping[str, int],
    *,
    read: Callable[[str], bytes],
    where: str,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Selection:
    """Chooses from everything that a source has.

    Args:
        sizes: paths, as the source lists them, and their sizes in bytes.
        read: gives the content of the weights' index.
        where: the source, for messages.

    Raises:
        UnsafePathError: if any listed path is not a plain relative one: such a source is not trusted with the rest.
        SourceError: if something that a build needs is missing; names it.
    """
    for path in sizes:
        check_relative(path)
    top = {path for path in sizes if "/" not in path}
    if not top and not nemo_layout(sizes):
        raise SourceError("has no files", where=where, fix="name the folder or repository that holds config.json and the weights")
    if "config.json" not in top:
        raise SourceError("has no config.json", where=where, fix=_config_fix(sizes))
    weights = _weights(top, read=read, where=where, allow_pickle=allow_pickle)
    _check_tokenizer(top, where)
    chosen = {*weights, *(top & {*SETTINGS, *TOKENIZER})}
    chosen |= {path for path in top if _LICENCE.fullmatch(path) and sizes[path] < MAX_LICENCE_BYTES}
    if trust_remote_code:
        chosen |= {path for path in top if path.endswith(".py")}
    _check_names(sizes, chosen, where)
    for path in sorted(chosen - weights):
        if sizes[path] > MAX_OTHER_BYTES:  # they are read whole, by us and by what loads the model
            raise SourceError(f"has {sizes[path]:,} bytes, too many for what it should be", where=f"{where}/{path}")
    return Selection(tuple(sorted(chosen)), tuple(sorted(set(sizes) - chosen)))


def _check_names(paths: Iterable[str], chosen: Iterable[str], where: str) -> None:
    """Refuses names that do not fit beside each other into a folder, on whatever file system that is."""
    listed = set(paths)
    for path in sorted(listed):
        parents = ["/".join(path.split("/")[:count]) for count in range(1, path.count("/") + 1)]
        if clash := next((parent for parent in parents if parent in listed), None):
            raise UnsafePathError(f"lists {clash!r} as a file and as a folder", where=where)
    seen: dict[str, str] = {}
    for path in sorted(chosen):
        if any(len(part.encode()) > MAX_NAME_BYTES for part in path.split("/")):
            raise UnsafePathError(f"needs a file whose name has more than {MAX_NAME_BYTES} bytes: {path[:40]!r}…", where=where)
        other = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if other != path:
            raise UnsafePathError(
                f"needs both {other!r} and {path!r}, which are one file where case does not count",
                where=where,
                fix="rename one of them at the source",
            )


def _config_fix(sizes: Iterable[str]) -> str:
    names = set(sizes)
    if nemo := nemo_layout(names):
        return (
            f"{nemo} is NVIDIA NeMo's own form, which no builder here reads: convert it to Hugging Face's layout in a NeMo "
            "container (scripts/checkpoint_converters has a script for each family) and name the result by file://"
        )
    if "model_index.json" in names:
        return "this is a diffusion pipeline; name a language model"
    if "adapter_config.json" in names:
        return "this is an adapter; merge it into its base model and name the merged checkpoint"
    nested = sorted(name for name in names if name.endswith("/config.json"))
    if nested:
        return f"there is one in {nested[0].removesuffix('/config.json')}/; copy that folder and name the copy by file://"
    return "name a checkpoint in Hugging Face's layout: config.json, tokenizer.json and safetensors side by side"


def nemo_layout(names: Iterable[str]) -> str | None:
    """What shows that these files are a NeMo checkpoint: an archive (`.nemo`), or the folders of NeMo 2; else None."""
    listed = set(names)
    archives = sorted(name for name in listed if name.endswith(".nemo"))
    if archives:
        return archives[0]
    if any(n.startswith("weights/") for n in listed) and any(n.startswith("context/") for n in listed):
        return "weights/ with context/"
    if "model_config.yaml" in listed and any(n.startswith(("model_weights/", "model_weights.")) for n in listed):
        return "model_weights with model_config.yaml"
    return None


# Weights --------------------------------------------------------------------------------------------------------------


def _weights(top: set[str], *, read: Callable[[str], bytes], where: str, allow_pickle: bool) -> set[str]:
    safetensors = _one_format(top, single="model.safetensors", index=INDEX, read=read, where=where)
    if safetensors:
        return safetensors
    _explain_unusual_safetensors(top, where)
    pickles = sorted(path for path in top if path.endswith(_PICKLES))
    if pickles and not allow_pickle:
        raise SourceError(
            f"has no safetensors, only pickle files, which can run code when they are read: {_listed(pickles)}",
            where=where,
            fix="name a checkpoint in safetensors, or set `source.allow_pickle: true` if you trust whoever made it",
        )
    weights = _one_format(top, single="pytorch_model.bin", index=PICKLE_INDEX, read=read, where=where)
    if weights:
        return weights
    others = sorted(path for path in top if path.endswith((*_OTHER_FORMATS, *_PICKLES)))
    raise SourceError(
        f"has no weights that can be used{', only ' + _listed(others) if others else ''}",
        where=where,
        fix="name a checkpoint with model.safetensors, or with shards and model.safetensors.index.json",
    )


def _one_format(top: set[str], *, single: str, index: str, read: Callable[[str], bytes], where: str) -> set[str]:
    """The weights under the standard names of one format. As in transformers, a single file is preferred to an index."""
    suffix = single[single.rindex(".") :]
    weight_map = parse_index(read(index), where=f"{where}/{index}") if index in top else {}
    shards = set(weight_map.values())
    if single in top and single not in shards:
        return {single}
    for shard in sorted(shards):
        if "/" in shard or not shard.endswith(suffix):
            raise SourceError(f"names {shard!r}, which is no {suffix} file beside it", where=f"{where}/{index}")
        if shard not in top:
            raise SourceError(
                f"names the shard {shard!r}, which is not there",
                where=f"{where}/{index}",
                fix="the checkpoint is incomplete: add the missing shard, or name another revision",
            )
    return {index, *shards} if shards else set()


def _explain_unusual_safetensors(top: set[str], where: str) -> None:
    """Refuses safetensors that nobody would load under their names, and says what they seem to be."""
    files = sorted(path for path in top if path.endswith(".safetensors"))
    if not files:
        return
    if any(_SHARD.fullmatch(path) for path in files):
        raise SourceError(
            f"has shards but no {INDEX} that says what is in them: {_listed(files)}",
            where=where,
            fix="the checkpoint is incomplete: add the index; transformers' save_pretrained writes one",
        )
    variants = sorted({m[1] or m[3] for path in files if (m := _VARIANT.fullmatch(path))})
    if variants:
        raise SourceError(
            f"has the weights only in variants ({', '.join(variants)}): {_listed(files)}",
            where=where,
            fix="copy one under the name model.safetensors (or its index and shards under the standard names)",
        )
    if any(path.startswith("adapter_") for path in files):
        raise SourceError(
            f"is an adapter, not a whole model: {_listed(files)}",
            where=where,
            fix="merge it into its base model and name the merged checkpoint",
        )
    if any(path.startswith("consolidated") for path in files):
        raise SourceError(
            f"has the weights only in the model maker's own layout: {_listed(files)}",
            where=where,
            fix="name a checkpoint in Hugging Face's layout (model.safetensors)",
        )
    raise SourceError(
        f"has safetensors, but neither model.safetensors nor {INDEX}: {_listed(files)}",
        where=where,
        fix="give the weights their standard name, model.safetensors",
    )


def _check_tokenizer(top: set[str], where: str) -> None:
    if "tokenizer.json" in top:
        return
    makings = sorted(top & {"tokenizer.model", "vocab.json", "merges.txt", "tekken.json", "spiece.model"})
    message = "has no tokenizer.json, which the server needs"
    if not makings:
        raise SourceError(message, where=where, fix="add the tokenizer.json of the model that this one was made from")
    raise SourceError(
        f"{message}, only {_listed(makings)}",
        where=where,
        fix="make one: python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('FOLDER').save_pretrained"
        "('FOLDER')\", where FOLDER holds a copy of the checkpoint, then name that folder by file://",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
