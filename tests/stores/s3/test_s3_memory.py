"""Publishing takes so much memory and no more, whatever is published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.s3_server import S3Server
from tests.stores.parts import MODEL, key

MIB = 1024 * 1024


@pytest.mark.slow
def test_files_whose_last_parts_are_large_take_no_more_memory_than_others(server: S3Server, source: Path) -> None:
    """Last parts that nearly fill a buffer, and files that are sent whole: sizes that come and go in every thread."""
    for index in range(16):
        for name, size in (("parts", 31 * MIB + index), ("whole", 16 * MIB - index)):
            with open(source / MODEL / "0" / f"{name}{index}.bin", "xb") as stream:
                stream.truncate(size)
    command = [sys.executable, "-m", "tests.stores.s3.publish", str(source), key("large")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_mib"] < 250
