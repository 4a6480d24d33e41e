"""Folders for what a command keeps only while it works. What killed commands left is removed by the next one.

<temporary folder>/enginepress-run-<pid>-<start of that process>-<random>/
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from enginepress.process import identity, process_start


@contextlib.contextmanager
def scratch_folder(command: str, *, keep_on_error: bool = False) -> Iterator[Path]:
    """A folder of this process's own in the system's temporary folder.

    Not in the workspace: kfp's runner rewrites the word python3 in paths and opens `{{$`, and Triton trips over spaces, and a
    workspace may have any name.

    Args:
        keep_on_error: leave it there if an error ends the work, because the error names a file in it. It is removed by the
            next command.
    """
    prefix = f"enginepress-{command}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid, _, start = left.name.removeprefix(prefix).rpartition("-")[0].partition("-")
        if pid.isdigit() and process_start(int(pid)) != start:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{identity().replace(':', '-')}-"))
    try:
        yield folder
    except BaseException:
        if not keep_on_error:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
