"""enginepress: from an LLM checkpoint to a gated, published, registered Triton release.

    import enginepress as ep
    ep.plan("recipe.yaml")      ep.run("recipe.yaml")       ep.submit("recipe.yaml", host="https://…")
    ep.releases("recipe.yaml")  ep.promote(…)               ep.rollback(…)

These functions stand in `enginepress.notebook`, which is imported when one of them is first used: the package itself imports
nothing heavy, and `import enginepress` costs what an empty module costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from enginepress.notebook import plan, promote, releases, rollback, run, submit

__all__ = ["__version__", "plan", "promote", "releases", "rollback", "run", "submit"]


def __getattr__(name: str) -> object:
    if name in __all__:
        import importlib

        # `run` is a package as well, which can be called: an import of one of its modules must not hide the function.
        return (
            importlib.import_module("enginepress.run")
            if name == "run"
            else getattr(importlib.import_module("enginepress.notebook"), name)
        )
    raise AttributeError(f"module 'enginepress' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
