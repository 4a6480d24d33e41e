"""Registers one release, for tests that need processes of their own: python -m tests.registry.program URI RELEASE"""

from __future__ import annotations

import sys

from enginepress.recipe import Registry
from enginepress.registry import MlflowRegistry
from tests.registry.conftest import register_with
from tests.stores.parts import key

if __name__ == "__main__":
    uri, release = sys.argv[1:]
    print("ready", flush=True)
    done = register_with(MlflowRegistry(Registry(tracking_uri=uri), default_uri=""), int(release), key("a"), [])
    print(done.model_version)
