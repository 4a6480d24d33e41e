"""An engine's answers beside transformers', for the same token ids.

Tokens are passed as ids, so that no tokenizer stands between the two. The logits of a whole prompt are compared as well:
random weights answer with near ties now and then, and equal tokens alone could be luck.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginepress.engines import Builder
from enginepress.recipe import Recipe
from tests.engines.checkpoints import VOCAB_SIZE

END = 1
"""The end-of-text token of the tiny checkpoints."""


def recipe(**engine: Any) -> Recipe:
    """A recipe for the onnxruntime builder with these `engine` fields; `trust_remote_code` goes to the source."""
    source = {"uri": "file:///checkpoint", "trust_remote_code": engine.pop("trust_remote_code", False)}
    return Recipe.model_validate({"name": "tiny", "source": source, "engine": engine, "stores": ["file:///releases"]})


def build(builder: Builder, checkpoint: Path, **engine: Any) -> Path:
    """The engine of `checkpoint`, in a folder beside it."""
    output = checkpoint.with_name(f"{checkpoint.name}-{engine.get('precision', 'float32')}")
    output.mkdir()
    builder.build(checkpoint, output, recipe(**engine), checkpoint.with_name(f"{output.name}.log"))
    return output


def random_prompt(length: int, seed: int = 1) -> list[int]:
    import numpy as np

    return [0, *np.random.default_rng([seed, length]).integers(3, VOCAB_SIZE - 1, length - 1).tolist()]


@dataclass(frozen=True)
class Likeness:
    """How like transformers an engine is.

    Attributes:
        prompts: how many prompts were answered with the same tokens by the batched engine, all prompts at once.
        of_prompts: of how many.
        logits: root mean square of the logits' difference, by the logits' own spread, one prompt at a time.
        top: share of positions where both prefer the same next token.
    """

    prompts: int
    of_prompts: int
    logits: float
    top: float


def compare(engine: Path, checkpoint: Path, lengths: Sequence[int], *, tokens: int = 16) -> Likeness:
    """The engine beside transformers in float32, for random prompts of these lengths."""
    import numpy as np
    import onnxruntime_genai as og

    prompts = [random_prompt(length) for length in lengths]
    reference = Reference(checkpoint)
    model = og.Model(str(engine))
    expected = [reference.answer(prompt, tokens) for prompt in prompts]
    answers = batched_answers(model, prompts, tokens)
    same = sum(answer == wanted for answer, wanted in zip(answers, expected, strict=True))
    wanted_logits = np.concatenate([reference.logits(prompt) for prompt in prompts])
    limit = json.loads((engine / "genai_config.json").read_text())["search"]["max_length"]
    logits = np.concatenate([engine_logits(model, prompt, limit) for prompt in prompts])
    error = float(np.sqrt(np.mean((logits - wanted_logits) ** 2)) / wanted_logits.std())
    top = float(np.mean(logits.argmax(-1) == wanted_logits.argmax(-1)))
    return Likeness(same, len(prompts), error, top)


class Reference:
    """transformers in float32."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        load: Any = AutoModelForCausalLM.from_pretrained
        self._model = load(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()

    def answer(self, prompt: list[int], tokens: int) -> list[int]:
        ids = self._torch.tensor([prompt])
        with self._torch.no_grad():
            whole = self._model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=2)
        return until_end(whole[0, len(prompt) :].tolist())

    def logits(self, prompt: list[int]) -> Any:
        with self._torch.no_grad():
            return self._model(self._torch.tensor([prompt])).logits[0].numpy()


def engine_logits(model: Any, prompt: list[int], max_length: int) -> Any:
    """The logits at every position of one prompt."""
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=min(len(prompt) + 1, max_length))
    generator = og.Generator(model, params)
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    return generator.get_output("logits")[0]


def batched_answers(model: Any, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Greedy answers to all prompts at once, by the engine that batches, as the server uses it."""
    import numpy as np
    import onnxruntime_genai as og

    engine = og.Engine(model)
    events = engine.create_event_buffer(64)
    requests: list[Any] = []
    answers: list[list[int]] = []
    for prompt in prompts:
        request = engine.create_request()
        options = og.TurnOptions(request)
        options.set_max_generated_tokens(tokens)
        options.set_do_sample(False)
        request.begin_turn(np.array(prompt, dtype=np.int32), options)
        requests.append(request)
        answers.append([])
    open_requests = len(requests)
    flags = og.EngineEventFlags
    while open_requests:
        for event in engine.run(events):
            if event.flags & flags.FAILED:
                raise RuntimeError(f"a request failed: {event.error_code}")
            if event.flags & flags.TOKEN:
                answers[requests.index(event.request)].append(int(event.token))
            if event.flags & flags.TURN_FINISHED:
                open_requests -= 1
    for request in requests:
        request.close()
    return [until_end(answer) for answer in answers]


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END)] if END in tokens else tokens
