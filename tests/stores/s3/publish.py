"""Publishes or promotes once, as a process of its own: python -m tests.stores.s3.publish SOURCE KEY | promote CHANNEL NUMBER"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.stores.s3.stores import a_store, promote, publish


def main(first: str, *rest: str) -> None:
    store = a_store(prefix=os.environ.get("ENGINEPRESS_TEST_PREFIX", "models"))
    if first == "promote":
        promote(store, rest[0], int(rest[1]))
        print(json.dumps({"moved": int(rest[1])}))
    else:
        print(json.dumps({"release": publish(store, Path(first), rest[0]).release}))


if __name__ == "__main__":
    main(*sys.argv[1:])
