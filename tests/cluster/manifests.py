"""Renders deploy/ with kubectl, and checks what comes out against schemas: Kubernetes' own, strictly, and ours for others."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.31", "1.34", "1.37")
"""Of Kubernetes."""


def render(folder: Path) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH, and it is what renders deploy/")
    done = subprocess.run(
        ["kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.safe_load_all(done.stdout) if d]


@cache
def _own_schema(kind: str) -> Any:
    path = SCHEMAS / f"{kind.lower()}.json"
    return json.loads(path.read_text()) if path.exists() else None


def problems(document: dict[str, Any], version: str) -> list[str]:
    """What is wrong with one object; a kind that no schema knows is wrong."""
    import jsonschema
    import kubernetes_validate

    schema = _own_schema(str(document.get("kind")))
    if schema is not None:
        return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"no schema knows {document.get('apiVersion')} {document.get('kind')}"]
    return []


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [d for d in documents if d["kind"] == kind]


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in of_kind(documents, kind) if d["metadata"]["name"] == name]
    return found
