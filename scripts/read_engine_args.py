"""Prints since which release, and up to which, vLLM has each argument: `enginepress/repository/plans/engine_args_releases.yaml`.

    python scripts/read_engine_args.py vllm-0.9.2 vllm-0.11.1 vllm-0.27.1

Each folder is an unpacked source distribution, and its name ends with the version. Only sources are read; nothing of them runs.
What is asked for are the names of engine_args.yaml: others of the newest release are listed at the end, to be sorted in by hand.
Of what is inside an argument, a release says nothing if it has no class of fields for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from enginepress.engines.versions import version_key
from enginepress.repository.plans.engine_args import load_arguments

ARGUMENTS = ("EngineArgs", "AsyncEngineArgs")

_IRREGULAR = {
    "compilation_config.pass_config": "PassConfig",
    "ec_transfer_config": "ECTransferConfig",
    "eplb_config": "EPLBConfig",
    "ir_op_priority": "IrOpPriorityConfig",
    "kv_events_config": "KVEventsConfig",
    "kv_transfer_config": "KVTransferConfig",
}
"""Arguments whose class is not called as they are."""

Classes = Mapping[str, frozenset[str]]
"""Class -> the names that its constructor takes."""


def class_of(path: str) -> str:
    """The class that vLLM makes of an argument's mapping."""
    return _IRREGULAR.get(path) or "".join(part.capitalize() for part in path.rpartition(".")[2].split("_"))


def read_classes(folder: Path) -> Classes:
    """The dataclasses and pydantic models of a release's arguments and configs."""
    found: dict[str, frozenset[str]] = {}
    files = [folder / "vllm/engine/arg_utils.py", folder / "vllm/config.py", *sorted((folder / "vllm/config").glob("*.py"))]
    for file in files:
        if file.is_file():
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and _has_fields(node):
                    found[node.name] = frozenset(_fields(node))
    return found


def _has_fields(node: ast.ClassDef) -> bool:
    said = " ".join(map(ast.unparse, (*node.decorator_list, *node.bases)))
    return "dataclass" in said or "config" in said.split() or "BaseModel" in said


def _fields(node: ast.ClassDef) -> Iterable[str]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            said, value = ast.unparse(line.annotation), ast.unparse(line.value) if line.value is not None else ""
            if not said.startswith("ClassVar") and "init=False" not in value:
                yield line.target.id


def has(classes: Classes, name: str) -> bool | None:
    """Whether a release has this argument; None if it cannot be said."""
    path, _, last = name.rpartition(".")
    if not path:
        return any(last in classes.get(owner, ()) for owner in ARGUMENTS)
    fields = classes.get(class_of(path))
    return None if fields is None else last in fields


def boundaries(name: str, releases: Sequence[tuple[str, Classes]]) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """The last release without it and the first with it; the last with it and the first without it again."""
    seen = [(version, there) for version, classes in releases if (there := has(classes, name)) is not None]
    having = [index for index, (_, there) in enumerate(seen) if there]
    if not having:
        return None, None
    first, last = having[0], having[-1]
    if len(having) < last - first + 1:
        print(f"# {name}: there, gone, and there again", file=sys.stderr)
    since = (seen[first - 1][0], seen[first][0]) if first else None
    return since, (seen[last][0], seen[last + 1][0]) if last + 1 < len(seen) else None


def main() -> None:
    arguments = load_arguments("vllm")
    names = [*arguments.known, *(f"{path}.{name}" for path, inner in arguments.inside.items() for name in inner)]
    found = sorted(
        ((folder.name.removeprefix("vllm-"), read_classes(folder)) for folder in map(Path, sys.argv[1:])),
        key=lambda release: version_key(release[0]),
    )
    for title, first, second, side in (("since", "lacking", "having", 0), ("gone", "having", "lacking", 1)):
        lines: dict[tuple[str, str], list[str]] = {}
        for name in sorted(names):
            if (pair := boundaries(name, found)[side]) is not None:
                lines.setdefault(pair, []).append(name)
        print(f"  {title}:")
        for pair in sorted(lines, key=lambda pair: version_key(pair[1])):
            print(f"    - {first}: {pair[0]}\n      {second}: {pair[1]}\n      names: [{', '.join(lines[pair])}]")
    newest = {name for owner in ARGUMENTS for name in found[-1][1].get(owner, ())}
    strange = newest - arguments.known - set(arguments.elsewhere) - set(arguments.refused)
    print(f"# unknown here: {', '.join(sorted(strange)) or 'none'}")
    unread = [name for name in sorted(names) if not any(has(classes, name) for _, classes in found)]
    print(f"# in none of them: {', '.join(unread) or 'none'}")


if __name__ == "__main__":
    main()
