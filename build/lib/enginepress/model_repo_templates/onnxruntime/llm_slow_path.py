"""The second path: one request in an og.Generator of its own.

It does what og.Engine 0.18 cannot do on a CPU:

- log-probabilities and bad words, which need the logits;
- a seed, which the engine takes only with its paged cache (CUDA);
- a long prompt without holding up everybody: the engine computes a prompt in one call, seconds long, while here it is
  computed in pieces between the others' tokens, and in bounded memory (the logits of a piece, not of the prompt).

One generator answers one request, so nothing of its answer depends on the others; but requests here share no work, so
their number is bounded by the parameter slow_path_requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og
from llm_errors import Kind, RequestError
from llm_job import END_OF_ANSWER, Job
from llm_request import Request
from llm_settings import EngineFacts

LONG_PROMPT = 512
"""Tokens from which on a prompt is long."""
_PIECE = 64
"""Tokens of a prompt computed at a time: hardly slower than all at once, and the others wait for this long only."""
_SEEDS = 2**31 - 1


def needs_generator(request: Request) -> str:
    """The input that og.Engine cannot honour, or ""."""
    if request.bad_words is not None:
        return "bad_words"
    if request.log_probs:
        return "return_log_probs"
    if request.sampling is not None and request.sampling.seed is not None:
        return "seed"
    return ""


class SlowPath:
    """One request and its generator."""

    def __init__(self, model: og.Model, job: Job, facts: EngineFacts) -> None:
        request = job.request
        self.job = job
        self._eos = facts.eos_token_ids
        self._bad_words = request.bad_words() if request.bad_words is not None else None
        params = og.GeneratorParams(model)
        params.set_search_options(**_search_options(request))
        self._generator = og.Generator(model, params)
        self._pieces = list(prompt_pieces(request.prompt, pad=facts.pad_token_id))
        self._pieces.reverse()

    def step(self) -> None:
        """Computes the next piece of the prompt, or the next token."""
        if self._pieces:
            self._generator.append_tokens(np.array(self._pieces.pop(), dtype=np.int32))
            return
        logits = self._masked_logits() if self._bad_words is not None or self.job.request.log_probs else None
        self._generator.generate_next_token()
        token = int(self._generator.get_next_tokens()[0])
        if token in self._eos:
            self.job.finish(END_OF_ANSWER)
            return
        if self._bad_words is not None:
            self._bad_words.push(token)
        self.job.push(token, _log_prob(logits, token) if logits is not None else 0.0)

    def _masked_logits(self) -> npt.NDArray[np.float32]:
        """The model's own logits; the generator goes on with a copy in which banned tokens are impossible."""
        logits = np.array(self._generator.get_logits(), dtype=np.float32)
        if self._bad_words is not None and len(banned := self._bad_words.banned()):
            masked = logits.copy()
            masked[..., banned[banned < masked.shape[-1]]] = -np.inf
            if not np.isfinite(masked).any():
                raise RequestError("bad_words: every token is forbidden here", Kind.INVALID_ARG)
            self._generator.set_logits(masked)
        return logits.reshape(-1)


def prompt_pieces(prompt: Sequence[int], *, pad: int, size: int = _PIECE) -> Iterator[Sequence[int]]:
    """Cuts a prompt such that no piece of several tokens ends with the padding token.

    The generator takes padding tokens at the end of what it is given for padding and does not look at them; but where
    a checkpoint pads with its end-of-turn token, a prompt may well have one there. A token on its own is never padding.
    """
    start = 0
    while start < len(prompt):
        end = min(start + size, len(prompt))
        while end - start > 1 and prompt[end - 1] == pad:
            end -= 1
        yield prompt[start:end]
        start = end


def _search_options(request: Request) -> dict[str, float | bool]:
    # All of them, always: what is not set comes from genai_config.json's `search`.
    options: dict[str, float | bool] = {
        "max_length": request.total_tokens,
        "min_length": len(request.prompt) + request.min_tokens if request.min_tokens else 0,
        "repetition_penalty": request.repetition_penalty,
        "do_sample": request.sampling is not None,
    }
    if request.sampling is not None:
        options |= {"temperature": request.sampling.temperature, "top_k": request.sampling.top_k, "top_p": request.sampling.top_p}
        if request.sampling.seed is not None:
            # The library takes 31 bits; seeds that differ by a multiple of 2^31 - 1 are one seed.
            options["random_seed"] = request.sampling.seed % _SEEDS
    return options


def _log_prob(logits: npt.NDArray[np.float32], token: int) -> float:
    """The natural logarithm of the token's probability under softmax, before temperature, penalties and bans."""
    exact = logits.astype(np.float64)
    top = exact.max()
    return float(exact[token] - top - np.log(np.exp(exact - top).sum()))
