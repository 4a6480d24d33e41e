"""The template's scheduler without Triton around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnxruntime_genai as og
from llm_detokenize import Detokenizer
from llm_job import Job, Reply
from llm_request import Request
from llm_scheduler import Scheduler
from llm_settings import EngineFacts, Settings, engine_overlay
from llm_tokenizer import Tokenizer


class Answer:
    """Collects the replies to one request."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.began = threading.Event()
        self._ended = threading.Event()
        self.job: Job | None = None

    def __call__(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.began.set()
        if reply.last:
            self._ended.set()

    def wait(self, timeout: float = 60.0) -> Answer:
        assert self._ended.wait(timeout), "no last reply"
        return self

    @property
    def tokens(self) -> list[int]:
        assert self.job is not None
        return self.job.tokens

    @property
    def text(self) -> str:
        return "".join(reply.text for reply in self.replies)

    @property
    def finish_reason(self) -> str:
        return self.replies[-1].finish_reason

    @property
    def error(self) -> str:
        error = self.replies[-1].error
        return error.message if error else ""


class Served:
    """A loaded model and its scheduler."""

    def __init__(self, engine: Path, tokenizer: Path, settings: Settings) -> None:
        self.facts = EngineFacts.read(engine, tokenizer)
        self.tokenizer = Tokenizer(tokenizer)
        self.make_detokenizer: Callable[[Sequence[int]], Detokenizer] = self.tokenizer.detokenizer
        self.log: list[str] = []
        config = og.Config(str(engine))
        config.overlay(engine_overlay(settings, self.facts))
        self.model = og.Model(config)
        self.scheduler = Scheduler(
            self.model,
            settings=settings,
            facts=self.facts,
            detokenizer=lambda prompt: self.make_detokenizer(prompt),
            log=self.log.append,
        )

    def ask(self, request: Request) -> Answer:
        answer = Answer()
        answer.job = self.scheduler.submit(request, answer)
        return answer

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        return [answer.wait() for answer in [self.ask(request) for request in requests]]


@contextmanager
def serving(engine: Path, tokenizer: Path, **settings: int) -> Iterator[Served]:
    served = Served(engine, tokenizer, Settings(**{"threads": 1, **settings}))
    try:
        yield served
    finally:
        served.scheduler.stop()
