"""One side of the comparison: does each job of a file with our ModelOpt driver, and writes a line of what came of it.

python -m scripts.gpu_check.worker JOBS.json       results in JOBS.results.jsonl, a line a case, at once
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from scripts.gpu_check.parts import failure


def main() -> None:
    order = Path(sys.argv[1])
    start = time.monotonic()
    import torch

    from enginepress.engines.modelopt import driver

    with open(order.with_name(f"{order.stem}.results.jsonl"), "a", encoding="utf-8") as results:
        for entry in json.loads(order.read_text()):
            Path(entry["job"]["output"]).mkdir(parents=True)
            row = {"name": entry["name"], **_done(driver, torch, entry["job"]), "since_start": round(time.monotonic() - start, 1)}
            results.write(json.dumps(row) + "\n")
            results.flush()


def _done(driver: Any, torch: Any, job: dict[str, Any]) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    try:
        driver.convert(job)
        found: dict[str, Any] = {"ok": True}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the next case goes on, whatever a library raises
        found = failure(error)
    found["seconds"] = round(time.monotonic() - start, 2)
    found["device"] = "cuda" if cuda else "cpu"
    found["peak_host_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if cuda:
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return found


if __name__ == "__main__":
    main()
