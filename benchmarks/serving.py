"""What serving through Triton costs, on a model large enough that the engine is the work, not the transport.

A Llama of 230 million random parameters (hidden 1024, 20 layers), int8. In each round, in turns: the engine called directly
in one process (`og.Generator`), one stream through Triton, eight streams at a time, and a 4-token request that is sent while a
200-token one is being answered. Tokens per second are those of all streams together, from the prompt's arrival to the last
token, called directly and through Triton alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from enginepress.engines import get_builder
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.serving.client import Question, ask_http
from enginepress.serving.tritonserver import TritonServer

ROUNDS = 5
TOKENS = 96
STREAMS = 8
PROMPT = "The pipeline compares what the served model answers with what the reference says, and then"

_DIRECT = """
import json, sys, time
import onnxruntime_genai as og
folder, ids, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = og.Model(folder)
for counted in (False, True):
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + tokens, do_sample=False)
    generator = og.Generator(model, params)
    start = time.perf_counter()
    generator.append_tokens(ids)
    count = 0
    while not generator.is_done():
        generator.generate_next_token()
        count += 1
    seconds = time.perf_counter() - start
print(count / seconds)
"""


@dataclass
class ServingTimes:
    """Medians over the rounds are what counts. Tokens per second, and seconds for the two requests side by side."""

    direct: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    eight: list[float] = field(default_factory=list)
    short_beside_long: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(getattr(self, name))


def serving_times(folder: Path) -> ServingTimes:
    """Makes the model in `folder` unless it is there, and measures."""
    recipe = Recipe.model_validate(
        {"name": "bench", "source": f"file://{folder}/checkpoint", "stores": ["file:///none"], "engine": {"precision": "int8"}}
    )
    engine, checkpoint = _built(folder, recipe)
    ids = _token_ids(checkpoint)
    found = ServingTimes()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unplaced, placed = Path(scratch, "unplaced"), Path(scratch, "placed")
        assemble(engine=engine, checkpoint=checkpoint, recipe=recipe, output=unplaced)
        write_placement(place(unplaced, 1, str(placed)), placed)
        with TritonServer(placed, log=Path(scratch, "log")) as server:
            _ask(server.http, 8)
            for number in range(ROUNDS):
                turns: list[Callable[[], None]] = [
                    lambda: found.direct.append(_direct(engine, ids)),
                    lambda: found.single.append(_streams(server.http, 1)),
                    lambda: found.eight.append(_streams(server.http, STREAMS)),
                    lambda: found.short_beside_long.append(_short_beside_long(server.http)),
                ]
                for turn in turns if number % 2 else reversed(turns):
                    turn()
    return found


def _built(folder: Path, recipe: Recipe) -> tuple[Path, Path]:
    engine, checkpoint = folder / "engine", folder / "checkpoint"
    if not (checkpoint / "config.json").exists():
        _make_checkpoint(checkpoint)
    if not (engine / "genai_config.json").exists():
        engine.mkdir(parents=True, exist_ok=True)
        get_builder("onnxruntime").build(checkpoint, engine, recipe, folder / "build.log")
    return engine, checkpoint


def _make_checkpoint(folder: Path) -> None:
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    tiny = Path(__file__).parents[1] / "examples" / "checkpoints" / "tiny-llama"
    vocab = json.loads((tiny / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=20,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.05,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny / name, folder / name)


def _token_ids(checkpoint: Path) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(PROMPT).ids)


def _direct(engine: Path, ids: list[int]) -> float:
    command = [sys.executable, "-c", _DIRECT, str(engine), json.dumps(ids), str(TOKENS)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _ask(address: str, tokens: int) -> tuple[float, int]:
    start = time.perf_counter()
    answer = ask_http(address, "bench", Question(text=PROMPT, max_tokens=tokens), stream=True)
    return time.perf_counter() - start, answer.tokens or 0


def _streams(address: str, count: int) -> float:
    """Tokens per second of `count` streams at a time."""
    tokens: list[int] = []
    threads = [threading.Thread(target=lambda: tokens.append(_ask(address, TOKENS)[1])) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(tokens) / (time.perf_counter() - start)


def _short_beside_long(address: str) -> float:
    """Seconds of a 4-token request as a share of those of the 200-token one beside which it is sent."""
    long: list[float] = []
    thread = threading.Thread(target=lambda: long.append(_ask(address, 200)[0]))
    thread.start()
    time.sleep(1.0)
    short = _ask(address, 4)[0]
    thread.join()
    return short / long[0]
