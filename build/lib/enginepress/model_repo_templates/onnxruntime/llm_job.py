"""One request on its way: its answer so far, and what is sent of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_detokenize import Detokenizer
from llm_errors import RequestError
from llm_request import Request
from llm_stops import StopMatcher

END_OF_ANSWER = "stop"
STOP_WORD = "stop_word"
LENGTH = "length"


@dataclass(frozen=True)
class Reply:
    """One response: a piece of a streamed answer, a whole answer, or an error."""

    text: str = ""
    finish_reason: str = ""
    """"" as long as the answer goes on."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    log_probs: tuple[float, ...] | None = None
    """Of the tokens since the last reply."""
    cum_log_probs: float = 0.0
    error: RequestError | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return bool(self.finish_reason) or self.error is not None


Send = Callable[[Reply], None]


@dataclass
class _Unsent:
    text: str = ""
    log_probs: list[float] = field(default_factory=list)


class Job:
    """One request while it is answered. Only the scheduler's thread calls it, but for `cancelled`."""

    def __init__(self, request: Request, detokenizer: Detokenizer, send: Send) -> None:
        self.request = request
        self.tokens: list[int] = []
        """The answer so far, without the token that ends it."""
        self.arrived = time.monotonic()
        self.failures = 0
        """How often the engine failed under it."""
        self.cancelled = False
        """Set by any thread when the client is gone."""
        self.done = False
        """Whether the last reply was sent."""
        self._detokenizer = detokenizer
        self._stops = StopMatcher(request.stop_words)
        self._send = send
        self._unsent = _Unsent()
        self._cum_log_probs = 0.0

    @property
    def tokens_left(self) -> int:
        """How many tokens the answer may still get."""
        return self.request.max_tokens - len(self.tokens)

    def push(self, token: int, log_prob: float = 0.0) -> None:
        """Takes the answer's next token and sends what it makes certain; the job may be done then."""
        self.tokens.append(token)
        if self.request.log_probs:
            self._unsent.log_probs.append(log_prob)
            self._cum_log_probs += log_prob
        text, stopped = self._stops.push(self._detokenizer.push(token))
        self._unsent.text += text
        if stopped:
            self._reply(STOP_WORD)
        elif self.tokens_left == 0:
            self.finish(LENGTH)
        elif self.request.stream and self._unsent.text:
            self._reply("")

    def finish(self, reason: str) -> None:
        """Ends the answer: what was held back comes out."""
        text, stopped = self._stops.push(self._detokenizer.flush())
        self._unsent.text += text if stopped else text + self._stops.flush()
        self._reply(STOP_WORD if stopped else reason)

    def fail(self, error: RequestError) -> None:
        """Ends the answer with an error, if it has not ended."""
        if not self.done:
            self.done = True
            self._send(Reply(error=error))

    def _reply(self, reason: str) -> None:
        self.done = bool(reason)
        self._send(
            Reply(
                text=self._unsent.text,
                finish_reason=reason,
                prompt_tokens=len(self.request.prompt),
                output_tokens=len(self.tokens),
                log_probs=tuple(self._unsent.log_probs) if self.request.log_probs else None,
                cum_log_probs=self._cum_log_probs,
            )
        )
        self._unsent = _Unsent()
