"""What serving through Triton costs, on a model large enough that the engine is the work, not the transport.

A Llama of 230 million random parameters (hidden 1024, 20 layers), int8. In each round, in turns: the engine called directly
in one process (`og.Generator`, as many threads as the server takes), one stream through Triton, eight streams at a time, and
a 4-token request that is sent while a 200-token one is being answered. Tokens per second are those of all streams together,
from the prompt's arrival to the last token, called directly and through Triton alike.

The work is reading the weights from memory, and where they came to lie there makes 10 to 25 % of the speed: on a virtual
machine whoever loads first is slower, with the very same code. So both load anew for each round, in turns who first.
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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from enginepress.engines import get_builder
from enginepress.model_repo_templates.onnxruntime.llm_threads import usable_cores
from enginepress.recipe import Recipe
from enginepress.repository.assemble import assemble
from enginepress.repository.place import place, write_placement
from enginepress.serving.client import Question, ask_http
from enginepress.serving.tritonserver import TritonServer

ROUNDS = 6
TURNS = 3
"""Of a single stream and of the direct call, in each round; their median counts."""
TOKENS = 96
STREAMS = 8
PROMPT = "The pipeline compares what the served model answers with what the reference says, and then"

_DIRECT = """
import json, sys, time
import onnxruntime_genai as og
folder, ids, tokens, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = og.Config(folder)
if threads:
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
model = og.Model(config)
for _ in sys.stdin:
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + tokens, do_sample=False)
    generator = og.Generator(model, params)
    start = time.perf_counter()
    generator.append_tokens(ids)
    count = 0
    while not generator.is_done():
        generator.generate_next_token()
        count += 1
    print(count / (time.perf_counter() - start), flush=True)
"""


@dataclass
class ServingTimes:
    """Medians over the rounds are what counts. Tokens per second, and seconds for the two requests side by side."""

    direct: list[float] = field(default_factory=list)
    library: list[float] = field(default_factory=list)
    """The engine called directly with the threads that the library takes by itself."""
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
        for number in range(ROUNDS):
            with ExitStack() as stack:
                if number % 2:
                    direct = stack.enter_context(Direct(engine, ids, threads=usable_cores()))
                server = stack.enter_context(TritonServer(placed, log=Path(scratch, "log")))
                if not number % 2:
                    direct = stack.enter_context(Direct(engine, ids, threads=usable_cores()))
                _round(found, server.http, direct, forward=bool(number % 4 // 2))
            with Direct(engine, ids, threads=0) as direct:
                found.library.append(direct.speed())
    return found


def _round(found: ServingTimes, address: str, direct: Direct, *, forward: bool) -> None:
    singles: list[float] = []
    directs: list[float] = []
    turns: list[Callable[[], None]] = [
        *[lambda: directs.append(direct.speed()), lambda: singles.append(_streams(address, 1))] * TURNS,
        lambda: found.eight.append(_streams(address, STREAMS)),
        lambda: found.short_beside_long.append(_short_beside_long(address)),
    ]
    _ask(address, 8)
    for turn in turns if forward else reversed(turns):
        turn()
    found.direct.append(statistics.median(directs))
    found.single.append(statistics.median(singles))


class Direct:
    """The engine in a process of its own, without a server. `threads` 0 leaves their number to the library."""

    def __init__(self, engine: Path, ids: list[int], *, threads: int) -> None:
        command = [sys.executable, "-c", _DIRECT, str(engine), json.dumps(ids), str(TOKENS), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Direct:
        self.speed()  # the first one is not counted
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def speed(self) -> float:
        """Tokens per second of one answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


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
