"""What is wrong with a recipe, in words: pydantic's and YAML's complaints as a person would put them."""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from enginepress.names import CHANNEL_NAME, MODEL_NAME, name_trouble
from enginepress.recipe import Recipe

SOURCE_FORM = r"^(hf|ngc|s3|file)://.+"
STORE_FORM = r"^(file|s3)://.+"
FORMS = {
    SOURCE_FORM: "is no source: it starts with hf://, ngc://, s3:// or file://",
    STORE_FORM: "is no store: it starts with file:// or s3://",
    r"^https?://.+": "is no address of a server: it starts with https:// or http://",
    r"^[0-9a-f]{64}$": "is no sha256: it has 64 digits, 0-9 and a-f",
    r"^\d\d\.\d\d$": "is no Triton release: write it as '26.07', in quotes",
    r"^/": "is no absolute path: it starts with a slash",
}
"""What to say of a text that has not the form that the schema asks for."""


_KINDS = {
    "dict_type": "must be a mapping, with a key and a value in each line",
    "model_type": "must be a mapping, with a key and a value in each line",
    "list_type": "must be a list, with a dash before each",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number that can be counted with",
}
_LIMITS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be more than"),
    "less_than_equal": ("le", "must be at most"),
}


def place_and_words(error: ErrorDetails) -> tuple[tuple[int | str, ...], str]:
    """Where one complaint belongs, and what it says. What concerns several fields begins with the one to look at."""
    loc, text = tuple(error["loc"]), explain(error)
    section, colon, rest = text.partition(": ")
    return ((section,), rest) if not loc and colon and section in Recipe.model_fields else (loc, text)


def explain(error: ErrorDetails) -> str:
    """What pydantic says of one field, as a person would."""
    kind, loc, given = error["type"], error["loc"], error.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        return "unknown key; " + (f"did you mean '{close[0]}'?" if close else "known are: " + ", ".join(known))
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        allowed = [a.strip().strip("'") for a in re.split(r",| or ", str(error["ctx"]["expected"]))]
        close = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.5)
        return f"'{given}' is not one of {', '.join(allowed)}" + (f"; did you mean '{close[0]}'?" if close else "")
    if kind == "string_pattern_mismatch":
        return f"'{given}' {_form_in_words(str(given), error['ctx']['pattern'])}"
    if kind == "too_short" and isinstance(given, list):
        return "is empty: write at least one"
    if given is None or (kind == "string_too_short" and not given):
        return "is empty: write a value, or leave the key out"
    if kind == "string_type" and isinstance(given, bool):
        return f"must be text, and YAML reads it as {str(given).lower()}: write it in quotes"
    if kind == "string_type" and isinstance(given, (int, float)):
        return f"must be text: write it in quotes, as '{given}'"
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return f"{words} {error['ctx'][key]}, not {given}"
    text = _KINDS.get(kind, error["msg"].removeprefix("Value error, "))
    return text if isinstance(given, (dict, list)) or kind == "value_error" else f"{text}, not {given!r:.80}"


def _form_in_words(given: str, pattern: str) -> str:
    for what, name in (("model", MODEL_NAME), ("channel", CHANNEL_NAME)):
        if pattern == f"^{name}$":
            return f"is no name for a {what}: {name_trouble(given, name)}"
    return FORMS[pattern] + (f"; did you mean '{meant}'?" if (meant := _meant_address(given, pattern)) else "")


def _meant_address(given: str, pattern: str) -> str | None:
    """What somebody meant who left out the scheme of a source or a store, or copied the address of a page."""
    if pattern not in (SOURCE_FORM, STORE_FORM):
        return None
    if page := re.fullmatch(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/tree/([\w.-]+))?/?", given):
        return f"hf://{page[1]}" + (f"@{page[2]}" if page[2] else "") if pattern == SOURCE_FORM else None
    if "://" in given:
        return None
    if pattern == SOURCE_FORM and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", given):
        return f"hf://{given}"
    return f"file://{given}"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The fields of the model at this place of the recipe."""
    model: Any = Recipe
    for part in loc:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        model = _model_in(field.annotation) if field is not None else None
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if isinstance(m, type) and issubclass(m, BaseModel)), None)


def field_name(loc: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc if part != "str")
    return text.lstrip(".") or "recipe"


def line_of(root: yaml.Node | None, loc: tuple[int | str, ...]) -> str:
    """` (line 7)`, where the YAML is at hand and the place can be found in it."""
    node, line = root, None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return f" (line {line})" if line is not None else ""


def yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())
