"""Reads a recipe from YAML, or from the JSON text in which it travels, and says in plain words what is wrong with it.

What depends on where the recipe lies is settled here, so that the recipe means the same everywhere afterwards: relative
`file://` and `sqlite:///` addresses become absolute, and the reference file is replaced by its content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from enginepress.calibration import FIELD, read_texts
from enginepress.canonical import json_digest, parameter_json
from enginepress.errors import RecipeError
from enginepress.files import hash_file
from enginepress.json_text import parse_json
from enginepress.lockfile import lock_path, parse_lock, read_lock_file
from enginepress.recipe import Calibration, Recipe, Signing, named_twice
from enginepress.recipe_messages import field_name, line_of, place_and_words, yaml_problem
from enginepress.serving.reference import read_reference
from enginepress.signing import PEM

MAX_BYTES = 1_000_000
SECRET_FIELDS = {
    ("source", "token"),
    ("registry", "username"),
    ("registry", "password"),
    ("registry", "token"),
    ("signing", "key"),
    ("signing", "password"),
}
_MAKE_REFERENCE = "make it with `enginepress reference RECIPE`"
PUBLIC_FILES = ("certificate", "public_key", "trusted_certificates")


class _Loader(yaml.SafeLoader):
    """YAML without keys that occur twice, of which the plain loader silently takes the last, and without aliases, with which a
    few lines can stand for endless ones."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            raise RecipeError(f"line {event.start_mark.line + 1}: aliases (*name) are not for recipes")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # a date that is none, a number of thousands of digits
            said = str(node.value)[:40] + ("…" if len(str(node.value)) > 40 else "")
            raise RecipeError(
                f"line {node.start_mark.line + 1}: {said} cannot be read: {str(error).partition(';')[0]}",
                fix="write it in quotes if it is a text",
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int)) and key in seen:
                raise RecipeError(f"line {key_node.start_mark.line + 1}: the key '{key}' occurs twice")
            if isinstance(key, (str, int)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def is_recipe_file(target: str) -> bool:
    """Whether TARGET is a recipe and not a store. Where nothing is, its name decides, so that the message fits what was meant."""
    if "://" in target or Path(target).is_dir():
        return False
    bare = not Path(target).parent.name and not Path(target).is_absolute()
    return Path(target).exists() or Path(target).suffix.lower() in (".yaml", ".yml", ".json") or bare


def load_recipe(path: Path, *, need_reference: bool = True, locked: bool = True) -> Recipe:
    """The recipe in a YAML file, with the lock that lies beside it.

    Args:
        need_reference: False for what does not gate: the recipe then has no reference, and its file need not exist yet.
        locked: False to leave the lock out.

    Raises:
        RecipeError: naming the file, the line, the field and the nearest known key.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"is larger than {MAX_BYTES} bytes, so it is no recipe", where=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path), fix="name an existing recipe file") from None
    except UnicodeDecodeError:
        raise RecipeError("is not UTF-8 text, so it is no recipe", where=str(path)) from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except RecipeError as error:
        fix = error.fix or "write each key once, and each value out"
        raise RecipeError(error.message, where=str(path), fix=fix) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML: {yaml_problem(error)}", where=str(path)) from None
    except RecursionError:
        raise RecipeError("is nested too deeply to be a recipe", where=str(path)) from None
    recipe = _validated(data, where=str(path), folder=path.resolve().parent, text=text, need_reference=need_reference)
    return _with_lock(recipe, written_uri(data), lock_path(path)) if locked else recipe


def recipe_of(data: Mapping[str, Any], folder: Path, *, need_reference: bool = True) -> Recipe:
    """The recipe in a mapping with the keys of a recipe's YAML, as programs and notebooks write it.

    Args:
        folder: relative paths are taken from here.
        need_reference: as of `load_recipe`.

    Raises:
        RecipeError: naming the field and the nearest known key.
    """
    return _validated(dict(data), where="recipe", folder=folder.resolve(), text=None, need_reference=need_reference)


def is_recipe(path: Path) -> bool:
    """Whether a YAML file is meant as a recipe, however wrong it may be: it has two of the keys that every recipe has.

    Two, since a recipe in which one of them is mistyped must be complained about and not be left out in silence; nor may one
    that cannot be read, or is no UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= MAX_BYTES else ""
    except PermissionError:
        return True
    except OSError:
        return False
    return sum(re.search(rf"^{key}\s*:", text, re.MULTILINE) is not None for key in ("name", "source", "stores")) >= 2


def written_uri(data: Mapping[str, Any]) -> str:
    """`source.uri` as the YAML has it: a lock names it like that, so that recipe and lock can move together."""
    source = data["source"]
    return str(source if isinstance(source, str) else source["uri"])


def _with_lock(recipe: Recipe, uri: str, path: Path) -> Recipe:
    data = read_lock_file(path)
    if data is None:
        return recipe
    lock = parse_lock(data, where=str(path))
    choices = {"allow_pickle": recipe.source.allow_pickle, "trust_remote_code": recipe.source.trust_remote_code}
    if lock.uri != uri or lock.choices != choices:
        what = f"of {lock.uri}, not of {uri}" if lock.uri != uri else "of other allow_pickle or trust_remote_code"
        raise RecipeError(f"is a lock {what}", where=str(path), fix="write it anew with `enginepress lock RECIPE`, or remove it")
    if recipe.source.uri.startswith("file://"):
        data = {**data, "source": recipe.source.uri}
    return recipe.model_copy(update={"source": recipe.source.model_copy(update={"lock": data})})


def named_reference(path: Path) -> Path:
    """The file that a recipe names in `checks.reference`, there or not.

    Raises:
        RecipeError: if it names none.
    """
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    name = data.get("checks", {}).get("reference")
    if not isinstance(name, str):
        raise RecipeError("checks.reference names no file", where=str(path), fix="name one there, or give --output FILE")
    return Path(os.path.normpath(path.resolve().parent / name))


def check_secrets(recipe: Recipe) -> None:
    """Raises RecipeError if an environment variable that the recipe names is not set: better now than after the build."""
    for section, field in sorted(SECRET_FIELDS):
        reference = getattr(getattr(recipe, section), field)
        name = str(reference or "").removeprefix("${").removesuffix("}")
        if name and not os.environ.get(name):
            raise RecipeError(
                f"names the environment variable {name}, which is not set", where=f"{section}.{field}", fix=f"export {name}"
            )


def travelling_json(recipe: Recipe) -> str:
    """The recipe as the one string in which it goes through a pipeline."""
    return parameter_json(recipe.canonical())


def recipe_from_json(text: str, digest: str) -> Recipe:
    """The recipe that a pipeline parameter holds.

    Args:
        digest: of the canonical JSON, from the sender. Runners may change parameters on their way.

    Raises:
        RecipeError: if it is not the recipe that was sent.
    """
    data = parse_json(text, where="recipe", kind=RecipeError, problem="the recipe parameter is not JSON")
    if digest and json_digest(data) != digest:
        raise RecipeError(
            "the recipe was changed on its way to this step: its digest is not the one that was sent",
            fix="submit the recipe again with `enginepress run` or `enginepress submit`",
        )
    return _validated(data, where="recipe", folder=None, text=None)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of the recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _validated(data: Any, *, where: str, folder: Path | None, text: str | None, need_reference: bool = True) -> Recipe:
    if not isinstance(data, dict):
        raise RecipeError("is no recipe: it must be a mapping with keys such as name, source and stores", where=where)
    problems = [*_misplaced_references(data)]
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += [place_and_words(e) for e in error.errors()]
    if problems:
        # Only what is wrong is looked up in the text: parsing it a second time takes longer than all of the rest.
        root = yaml.compose(text, Loader=yaml.SafeLoader) if text is not None else None
        lines = [f"{field_name(loc)}{line_of(root, loc)}: {text}" for loc, text in problems]
        message = lines[0] if len(lines) == 1 else f"{len(lines)} things are wrong:\n  " + "\n  ".join(lines)
        raise RecipeError(message, where=where, fix="`enginepress schema` prints every field with its meaning")
    if not need_reference:
        recipe = recipe.model_copy(update={"checks": recipe.checks.model_copy(update={"reference": None})})
    settled = _settled(recipe, folder) if folder is not None else recipe
    if (url := named_twice([s.url for s in settled.stores])) is not None:  # relative and absolute, with `..` and without
        raise RecipeError(f"stores: {url} is named twice", where=where, fix="name each store once")
    if isinstance(settled.checks.reference, dict):
        read_reference(settled.checks.reference)
    return settled


# What depends on the recipe's folder ----------------------------------------------------------------------------------


def _settled(recipe: Recipe, folder: Path) -> Recipe:
    checks, registry = recipe.checks, recipe.registry
    if isinstance(checks.reference, str):
        checks = checks.model_copy(update={"reference": _read_reference(folder / checks.reference)})
    if registry.tracking_uri is not None:
        registry = registry.model_copy(update={"tracking_uri": absolute_sqlite(registry.tracking_uri, folder)})
    engine = recipe.engine
    if engine.calibration is not None:
        engine = engine.model_copy(update={"calibration": _found_calibration(engine.calibration, folder)})
    return recipe.model_copy(
        update={
            "engine": engine,
            "source": recipe.source.model_copy(update={"uri": absolute_file_url(recipe.source.uri, folder)}),
            "stores": [s.model_copy(update={"url": absolute_file_url(s.url, folder)}) for s in recipe.stores],
            "checks": checks,
            "registry": registry,
            "signing": recipe.signing.model_copy(update=_public_files(recipe.signing, folder)),
        }
    )


def _public_files(signing: Signing, folder: Path) -> dict[str, str]:
    """The content of the keys and certificates that the recipe names."""
    found = {}
    for field in PUBLIC_FILES:
        name = getattr(signing, field)
        if name is not None and not name.startswith(PEM):
            found[field] = read_public_pem(folder / os.path.expanduser(name), f"signing.{field}")
    return found


def read_public_pem(path: Path, field: str) -> str:
    """A public key, or certificates.

    Raises:
        RecipeError: if it cannot be read, or is something else; above all a private key, which would travel with the recipe.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_BYTES else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RecipeError(f"{field}: cannot be read: {reason}", where=str(path)) from None
    wanted = "PUBLIC KEY" if field.endswith("public_key") else "CERTIFICATE"
    if "PRIVATE KEY" in text:
        raise RecipeError(f"{field}: holds a private key, which stays with whoever signs", where=str(path))
    if f"{PEM}{wanted}" not in text:
        raise RecipeError(f"{field}: is no PEM file with a {wanted}", where=str(path))
    return text[text.index(PEM) :].strip() + "\n"


def _read_reference(path: Path) -> dict[str, Any]:
    field = "checks.reference"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"is larger than {MAX_BYTES} bytes; ask fewer or shorter prompts", where=str(path))
        problem = f"{field}: is no reference, which is JSON"
        data = parse_json(path.read_bytes(), where=str(path), kind=RecipeError, problem=problem, fix=_MAKE_REFERENCE)
    except FileNotFoundError:
        raise RecipeError(f"{field}: the file does not exist", where=str(path), fix=_MAKE_REFERENCE) from None
    except OSError as error:
        raise RecipeError(f"{field}: cannot be read: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise RecipeError(f"{field}: is not a reference", where=str(path), fix=_MAKE_REFERENCE)
    return data


def _found_calibration(calibration: Calibration, folder: Path) -> Calibration:
    """With an absolute path, and with the digest by which the build key knows the file. Its texts are read, and not kept."""
    path = Path(os.path.normpath(folder / os.path.expanduser(calibration.data.removeprefix("file://"))))
    if path.suffix not in (".jsonl", ".txt"):
        raise RecipeError(f"{FIELD}: is neither a .jsonl nor a .txt file", where=str(path))
    try:
        digest = hash_file(path)
    except OSError as error:
        raise RecipeError(
            f"{FIELD}: cannot be read: {error.strerror}",
            where=str(path),
            fix="name a local file with a few hundred texts of the kind that the model will see; nothing is downloaded for this",
        ) from None
    if calibration.sha256 not in (None, digest):
        raise RecipeError(
            f"engine.calibration.sha256: the file has {digest}, the recipe wants {calibration.sha256}",
            where=str(path),
            fix="put the file back, or write its digest into the recipe",
        )
    read_texts(calibration.model_copy(update={"data": str(path), "sha256": None}))
    return calibration.model_copy(update={"data": str(path), "sha256": digest})


def absolute_file_url(url: str, folder: Path) -> str:
    """`file://relative` and `file://~/x` as absolute; other URLs unchanged."""
    if not url.startswith("file://"):
        return url
    path = url.removeprefix("file://")
    if path.startswith("localhost/"):
        path = path.removeprefix("localhost")
    return "file://" + os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def absolute_sqlite(uri: str, folder: Path | None = None) -> str:
    """`sqlite:///relative` as absolute, from the current folder or another; other URIs unchanged."""
    folder = folder or Path.cwd()
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return prefix + os.path.normpath(os.path.join(folder, uri.removeprefix(prefix)))
    return uri


# Environment references -----------------------------------------------------------------------------------------------


def _misplaced_references(data: Mapping[str, Any]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """`${NAME}` anywhere but in a secret's field: a recipe must mean the same in every environment."""

    def walk(value: Any, loc: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], str]]:
        if isinstance(value, str) and re.search(r"\$\{\w+\}", value) and loc not in SECRET_FIELDS:
            fields = ", ".join(sorted(".".join(f) for f in SECRET_FIELDS))
            yield loc, f"environment references are for secrets only ({fields}); write the value itself"
        elif isinstance(value, dict) and loc not in (("checks", "reference"), ("source", "lock")):
            for key, item in value.items():
                yield from walk(item, (*loc, str(key)))
        elif isinstance(value, list) and loc != ("checks", "prompts"):
            for index, item in enumerate(value):
                yield from walk(item, (*loc, index))

    yield from walk(data, ())
