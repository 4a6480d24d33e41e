"""Prints the flags that a Python tool adds to its argument parser, as a reading for `enginepress/engines/tensorrt_llm/contracts`.

    python scripts/read_contract.py TensorRT-LLM/examples/models/core/llama/convert_checkpoint.py

Only the source is read; nothing of it runs. Values that are no literals (a default taken from a class) are left out and named
in a comment, to be filled in by hand, as are flags that are added in a loop, such as trtllm-build's plugins.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_TYPES = {"int": "int", "float": "float", "str": "str", "Path": "path"}


def read_flags(source: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Name, facts, and what could not be read, of each `add_argument`, in the order of the source."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    ]
    for call in sorted(calls, key=lambda node: node.lineno):
        names = [name.value for name in call.args if isinstance(name, ast.Constant) and isinstance(name.value, str)]
        if names:
            yield names[0], *_facts(names, {k.arg: k.value for k in call.keywords if k.arg})


def _facts(names: list[str], given: dict[str, ast.expr]) -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {}
    unread = []
    kind = given.get("type")
    if ast.unparse(given["action"]).strip("'\"") == "store_true" if "action" in given else False:
        facts["type"] = "flag"
    else:
        facts["type"] = _TYPES.get(ast.unparse(kind), "str") if kind is not None else "str"
    for key in ("required", "default", "choices", "nargs"):
        if key not in given:
            continue
        try:
            value = ast.literal_eval(given[key])
        except ValueError:
            unread.append(f"{key} is {ast.unparse(given[key])}")
            continue
        if key == "choices":
            value = ["None" if choice is None else choice for choice in value]
        if value not in (None, False, []):
            facts[key] = value
    if len(names) > 1:
        facts["aliases"] = names[1:]
    return facts, unread


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        print(f"# {path}")
        for name, facts, unread in read_flags(path.read_text(encoding="utf-8")):
            line = yaml.safe_dump(facts, default_flow_style=True, width=10**6, sort_keys=False).strip()
            print(f"      {name}: {line}" + (f"  # unread: {'; '.join(unread)}" if unread else ""))


if __name__ == "__main__":
    main()
