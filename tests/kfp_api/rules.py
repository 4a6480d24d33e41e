"""What the backend refuses, and how: rewritten from its rules, each with the words that it gives."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.kfp_api.shapes import ShapeError, check

STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}
"""HTTP statuses and the gRPC codes that the gateway makes them of."""


class Refusal(Exception):
    """What the backend answers instead of doing it."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        return {"error": self.message, "code": STATUS[self.status], "message": self.message, "details": []}


# Pipelines ------------------------------------------------------------------------------------------------------------


def read_package(text: str) -> dict[str, Any]:
    """The pipeline spec of a compiled package, and its platform spec if there is one.

    Returns:
        As the API keeps it: the spec itself, or both under `pipeline_spec` and `platform_spec`.
    """
    spec: dict[str, Any] | None = None
    platform: dict[str, Any] | None = None
    for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if not isinstance(document, dict):
            continue
        if "pipelineInfo" in document:
            if spec is not None:
                raise Refusal(400, "multiple pipeline specs provided")
            spec = document
        elif "platforms" in document:
            platform = document
    if spec is None:
        raise Refusal(400, "no pipeline spec is provided")
    return read_spec({"pipeline_spec": spec, "platform_spec": platform} if platform else spec)


def read_spec(data: dict[str, Any]) -> dict[str, Any]:
    """A pipeline spec as a run carries it, checked against the protobuf that describes it."""
    spec = data.get("pipeline_spec", data)
    try:
        parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        if "platform_spec" in data:
            json_format.ParseDict(data["platform_spec"], pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refusal(400, f"invalid v2 pipeline spec: {error}") from None
    if parsed.schema_version != "2.1.0":
        raise Refusal(400, f"KFP only supports schema version 2.1.0, but the pipeline spec has version {parsed.schema_version}")
    if not parsed.pipeline_info.name:
        raise Refusal(400, "invalid v2 pipeline spec: name is empty")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", parsed.pipeline_info.name):
        raise Refusal(400, "invalid v2 pipeline spec: name should consist of lower case alphanumeric characters, '-' or '.'")
    if not spec.get("root"):
        raise Refusal(400, "invalid v2 pipeline spec: root component is empty")
    return data


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "NUMBER_DOUBLE": ((int, float), "double or integer"),
    "NUMBER_INTEGER": ((int, float), "double or integer"),
    "STRING": (str, "string"),
    "BOOLEAN": (bool, "bool"),
    "LIST": (list, "list"),
    "STRUCT": (dict, "struct"),
}


def check_parameters(spec: dict[str, Any], given: dict[str, Any]) -> None:
    """Each parameter that the pipeline needs, of its type, and no other."""
    spec = spec.get("pipeline_spec", spec)
    wanted = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in wanted.items():
        if name not in given:
            if not parameter.get("isOptional") and "defaultValue" not in parameter:
                raise Refusal(400, f"parameter {name} is not optional, yet has neither default value nor user provided value")
            continue
        kind, word = _KINDS[parameter["parameterType"]]
        number = isinstance(given[name], bool) and kind is not bool
        if not isinstance(given[name], kind) or number:
            raise Refusal(
                400, f"input parameter {name} requires type {word}, but the parameter value is not of {word} value type"
            )
    if extra := sorted(set(given) - set(wanted)):
        raise Refusal(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


# Recurring runs -------------------------------------------------------------------------------------------------------


def check_schedule(data: dict[str, Any]) -> None:
    if not 1 <= int(data.get("max_concurrency") or 0) <= 10:
        raise Refusal(
            400,
            f"Max concurrency of a recurring run must be at least 1 and at most 10. Received {data.get('max_concurrency') or 0}",
        )
    cron = (data.get("trigger") or {}).get("cron_schedule", {}).get("cron")
    if cron is not None and (problem := cron_problem(cron)):
        raise Refusal(400, f"Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {problem}")


_FIELDS = ((0, 59, ""), (0, 59, ""), (0, 23, ""), (1, 31, ""))
_FIELDS += ((1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"), (0, 6, "sun mon tue wed thu fri sat"))


def cron_problem(text: str) -> str | None:
    """What robfig/cron 1.2.0 says to a schedule. It takes five fields too, and reads the first of them as seconds."""
    if text.startswith("@"):
        known = re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every ([\d.]+(h|m|s|ms))+)", text)
        return None if known else f"Unrecognized descriptor: {text}"
    fields = text.split()
    if not 5 <= len(fields) <= 6:
        return f"Expected 5 to 6 fields, found {len(fields)}: {text}"
    for field, (low, high, names) in zip(fields, _FIELDS, strict=False):
        for part in field.split(","):
            match = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
            if match is None:
                return f"Failed to parse int from {part}"
            for word in match.group(1, 2):
                number = names.split().index(word.lower()) + low if word and word.lower() in names.split() else word
                if word and not str(number).isdigit():
                    return f"Failed to parse int from {word}: strconv.Atoi: parsing"
                if word and not low <= int(number or 0) <= high:
                    return f"{number} is not between {low} and {high}: {part}"
            if match[3] and not int(match[3]):
                return f"Step of range should be a positive number: {part}"
    return None


# Lists ----------------------------------------------------------------------------------------------------------------

FILTER_KEYS = {
    "runs": {"run_id", "display_name", "created_at", "finished_at", "description", "storage_state", "namespace", "state"}
    | {"experiment_id", "recurring_run_id", "scheduled_at", "status", "id", "name"},
    "experiments": {"experiment_id", "display_name", "created_at", "description", "namespace", "storage_state", "id", "name"},
    "recurringRuns": {"recurring_run_id", "display_name", "created_at", "updated_at", "description", "id", "name"},
    "pipelines": {"pipeline_id", "display_name", "name", "created_at", "description", "namespace", "id"},
    "pipeline_versions": {"pipeline_version_id", "display_name", "name", "created_at", "description", "id", "pipeline_id"},
}
_OPERATIONS = {1: "EQUALS", 2: "NOT_EQUALS", 8: "IN", 9: "IS_SUBSTRING"}


def read_filter(text: str, what: str) -> list[tuple[str, str, Any]]:
    """The predicates of a filter: operation, key, value."""
    if not text:
        return []
    try:
        data = json.loads(text)
        snake = {"predicates": [{_snake(k): v for k, v in p.items()} for p in data.get("predicates", [])]}
        check(snake, "V2beta1Filter")
    except (ValueError, AttributeError, ShapeError) as error:
        raise Refusal(400, f"failed to parse valid filter from {text!r}: {error}") from None
    found = []
    for predicate in snake["predicates"]:
        operation = _OPERATIONS.get(predicate["operation"], predicate["operation"])
        if operation not in _OPERATIONS.values():
            raise Refusal(400, f"this double does not know the operation {operation}")
        if predicate["key"] not in FILTER_KEYS[what]:
            raise Refusal(400, f'no support for filtering on unrecognized field "{predicate["key"]}"')
        value = predicate.get("string_value", (predicate.get("string_values") or {}).get("values"))
        found.append((operation, predicate["key"], value))
    return found


def matches(item: dict[str, Any], predicates: list[tuple[str, str, Any]]) -> bool:
    tests = {
        "EQUALS": lambda a, b: a == b,
        "NOT_EQUALS": lambda a, b: a != b,
        "IN": lambda a, b: a in b,
        "IS_SUBSTRING": lambda a, b: b.lower() in str(a).lower(),
    }
    return all(tests[operation](item.get(key, ""), value) for operation, key, value in predicates)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda m: "_" + m[0].lower(), name)
