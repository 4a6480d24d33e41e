"""The build key: sha256 over everything that can change the engine or the model repository.

Two builds with one key are interchangeable, so a finished one is never repeated. The key is declared by `resolve`, which
may run where no GPU and no builder is at hand, and checked by `build`, which compares it with what is really installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginepress.canonical import json_digest
from enginepress.recipe import Recipe

FORMAT = 1
"""Raised when enginepress itself starts to build or assemble differently from the same inputs."""


@dataclass(frozen=True)
class BuildInputs:
    """What a build key is made of.

    Attributes:
        revision_digest: which bytes (`Revision.digest`).
        build_fields: what the recipe asks for (`Recipe.build_fields`).
        environment: names and versions of the builder's packages (`Builder.environment`).
        template_digest: the model repository template's content.
    """

    revision_digest: str
    build_fields: Mapping[str, Any]
    environment: Mapping[str, str]
    template_digest: str

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "revision": self.revision_digest,
            "build": dict(self.build_fields),
            "environment": dict(self.environment),
            "template": self.template_digest,
        }

    @property
    def key(self) -> str:
        return json_digest(self.to_json())

    @property
    def engine_key(self) -> str:
        """Like `key`, without what only the repository needs: changing a template does not rebuild an engine."""
        build = self.build_fields
        return json_digest(
            {
                "format": FORMAT,
                "revision": self.revision_digest,
                "source": build["source"],
                "engine": build["engine"],
                "environment": dict(self.environment),
            }
        )


def build_inputs(recipe: Recipe, revision_digest: str, environment: Mapping[str, str], template_digest: str) -> BuildInputs:
    return BuildInputs(revision_digest, recipe.build_fields(), environment, template_digest)
