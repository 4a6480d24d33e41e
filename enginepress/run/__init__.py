"""Runs pipelines: here through kfp's local runner, on a cluster through its API; and watches.

`enginepress.run(recipe)` is the function of `enginepress.notebook` as well: a package and a function of the same name share one
place, so this package can be called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, recipe: Any, **options: Any) -> Any:
        """See `enginepress.notebook.run`."""
        return importlib.import_module("enginepress.notebook").run(recipe, **options)


sys.modules[__name__].__class__ = _CallablePackage
