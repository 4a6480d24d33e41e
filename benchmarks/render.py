"""Rendering and validating a whole tensorrt_llm repository, in process: at most 50 ms.

    python -m benchmarks.render

From the recipe to findings: the five models are planned, assembled from a checkpoint and an engine of empty files, placed
for a reader's root, written to disk and validated. The first time pays for imports and is not counted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.repository.templates import template_folder
from enginepress.repository.validate import validate

LIMIT_MS = 50
ROUNDS = 15
TEMPLATE = "tensorrt_llm_1_0"

RECIPE = {
    "name": "llama",
    "source": "file:///checkpoint",
    "engine": {"builder": "tensorrt_llm", "precision": "float16", "container": "26.07", "parallelism": {"tensor": 2}},
    "serving": {"bls": True, "parameters": {"kv_cache_free_gpu_mem_fraction": 0.85, "enable_chunked_context": True}},
    "stores": ["file:///store"],
}


def render_ms(folder: Path, rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter) -> tuple[float, ...]:
    """Milliseconds of each round, in the folder, which is left with the inputs and the last round's repository."""
    checkpoint, engine = folder / "checkpoint", folder / "engine"
    checkpoint.mkdir()
    (checkpoint / "tokenizer.json").write_text('{"version": "1.0"}')
    engine.mkdir()
    config = {
        "version": "1.2.1",
        "pretrained_config": {"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}},
        "build_config": {"max_batch_size": 8, "max_beam_width": 1},
    }
    (engine / "config.json").write_text(json.dumps(config))
    for rank in range(2):
        (engine / f"rank{rank}.engine").write_bytes(b"engine")
    found = []
    for number in range(rounds + 1):
        # Another name each time: nothing that a round writes has been seen before.
        recipe = Recipe.model_validate({**RECIPE, "name": f"llama-{number}"})
        unplaced, placed = folder / "unplaced", folder / "placed"
        for made in (unplaced, placed):
            shutil.rmtree(made, ignore_errors=True)
        unplaced.mkdir()
        start = clock()
        assemble(engine=engine, checkpoint=checkpoint, recipe=recipe, output=unplaced, template=template_folder(TEMPLATE))
        write_placement(place(unplaced, 1, str(placed)), placed)
        result = validate(placed)
        found.append((clock() - start) * 1000)
        assert result.findings == (), result.findings
        assert len(result.models) == 5
    return tuple(found[1:])


def main() -> None:
    for what, clock in (("by the clock", time.perf_counter), ("of the processor", time.process_time)):
        with tempfile.TemporaryDirectory() as folder:
            times = render_ms(Path(folder), clock=clock)
        median, spread = statistics.median(times), f"{min(times):.1f} to {max(times):.1f}"
        print(f"render and validate, {what}: median {median:.1f} ms ({spread}), at most {LIMIT_MS} ms")


if __name__ == "__main__":
    main()
