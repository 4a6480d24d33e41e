"""Publishes, promotes or removes once, as a process of its own:

python -m tests.stores.s3.publish SOURCE KEY | promote CHANNEL NUMBER | remove NUMBER
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from enginepress.errors import StoreError
from tests.stores.parts import MODEL
from tests.stores.s3.stores import a_store, promote, publish


def main(first: str, *rest: str) -> None:
    store = a_store(prefix=os.environ.get("ENGINEPRESS_TEST_PREFIX", "models"))
    if first == "promote":
        try:
            promote(store, rest[0], int(rest[1]))
            print(json.dumps({"moved": int(rest[1])}))
        except StoreError as error:
            print(json.dumps({"refused": str(error)}))
    elif first == "remove":
        try:
            store.remove(MODEL, int(rest[0]))
            print(json.dumps({"removed": int(rest[0])}))
        except StoreError as error:
            print(json.dumps({"refused": str(error)}))
    else:
        release = publish(store, Path(first), rest[0]).release
        print(json.dumps({"release": release, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Of this program. What getrusage tells begins with the memory of whoever started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
