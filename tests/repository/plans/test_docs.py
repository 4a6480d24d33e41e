"""docs/serving_gpu.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from enginepress.recipe import Serving
from enginepress.repository.plans.tensorrt_llm_parameters import PARAMETERS, SET_ELSEWHERE

TEXT = (Path(__file__).parents[3] / "docs" / "serving_gpu.md").read_text()


def test_parameters_in_the_docs_exist() -> None:
    block = TEXT.split("```yaml")[1].split("```")[0]
    named = set(re.findall(r"^    (\w+):", block, re.MULTILINE))
    assert named
    assert named <= {p.name for p in PARAMETERS}
    assert {"engine_dir", "tokenizer_dir", "triton_max_batch_size", "decoupled_mode"} <= set(SET_ELSEWHERE)


def test_serving_fields_in_the_docs_exist() -> None:
    named = set(re.findall(r"serving\.([a-z_]+)[`:]", TEXT)) - {"launch"}
    assert named <= set(Serving.model_fields)
