"""Who is answered when: one thread that owns every engine and every generator, and calls them in turn.

Waiting requests go in groups to engines of their own (llm_batch); the groups' steps alternate, so a short request never
waits for a long one to end, only for single steps. Requests that an engine cannot honour, and long prompts, go one by one
to generators (llm_slow_path), whose steps alternate with the groups'.

What bounds the memory of the key-value caches: `engines` groups and `slow_path_requests` generators at one time. A group's
cache has room for as many tokens as its longest request can reach, times its rows; `_fits` keeps that below
_CACHE_SEQUENCES whole contexts. So all caches together hold at most
(_CACHE_SEQUENCES * engines + slow_path_requests) * max_sequence_length tokens; what does not fit waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import onnxruntime_genai as og
from llm_batch import Batch, BatchError
from llm_detokenize import Detokenizer
from llm_errors import Kind, RequestError
from llm_job import Job, Reply, Send
from llm_request import Request
from llm_settings import EngineFacts, Settings, sequence_limit
from llm_slow_path import LONG_PROMPT, SlowPath, needs_generator

# Larger groups than this give a CPU hardly more tokens a second, and a row whose request has ended is computed until its
# group ends: larger groups only form when there are more waiting requests than engines to take them.
_GROUP = 4
# Prompts of a group are padded to the longest and computed in one call, during which nobody else gets a token.
_PROMPT_TOKENS = LONG_PROMPT
_CACHE_SEQUENCES = 4
_ATTEMPTS = 2
# A request waits for companions as long as one step takes, since a group of four costs little more than a single row. This
# bounds it where a step is a long prompt.
_MOST_PATIENCE_S = 0.02


class Scheduler:
    """Answers requests. Its public methods may be called from any thread."""

    def __init__(
        self,
        model: og.Model,
        *,
        settings: Settings,
        facts: EngineFacts,
        detokenizer: Callable[[Sequence[int]], Detokenizer],
        log: Callable[[str], None],
    ) -> None:
        self._model = model
        self._settings = settings
        self._facts = facts
        self._cache_tokens = _CACHE_SEQUENCES * sequence_limit(settings, facts)
        self._detokenizer = detokenizer
        self._log = log
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._arrived: deque[Job] = deque()
        self._open = 0
        self._closed: RequestError | None = None
        # The thread's own:
        self._waiting: list[Job] = []
        self._waiting_slow: list[Job] = []
        self._batches: list[Batch] = []
        self._slow: list[SlowPath] = []
        self._step_s = 0.0
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request, send: Send) -> Job:
        """Takes a request; `send` gets its replies, from the scheduler's thread.

        Raises:
            RequestError: there is no room, or the request cannot be honoured.
        """
        reason = needs_generator(request)
        if reason and not self._settings.slow_path_requests:
            raise RequestError(f"{reason}: switched off on this server (parameter slow_path_requests is 0)")

        def send_and_count(reply: Reply) -> None:
            if reply.last:  # before it is sent: whoever gets an answer may ask again at once
                with self._changed:
                    self._open -= 1
            send(reply)

        job = Job(request, self._detokenizer(request.prompt), send_and_count)
        limit = self._settings.max_concurrent_requests
        with self._changed:
            if self._closed is not None:
                raise self._closed
            if self._open >= limit:
                raise RequestError(
                    f"too many requests: {self._open} are being answered or wait, the limit is {limit} "
                    "(max_concurrent_requests); try again later",
                    Kind.UNAVAILABLE,
                )
            self._open += 1
            self._arrived.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job whose client is gone, before its next token."""
        with self._changed:
            job.cancelled = True
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread; requests not answered yet get an error."""
        self._close(RequestError("the model is being unloaded", Kind.UNAVAILABLE))
        self._thread.join()

    # ------------------------------------------------------------------------------------------------------------------
    # The thread
    # ------------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._drop_cancelled()
                self._admit()
                self._step()
        except BaseException as error:  # a hanging request is worse than any error
            self._log(f"the scheduler has died: {error!r}")
            self._close(RequestError(f"the model can answer no more requests; load it again: {error!r}", Kind.INTERNAL))
        finally:
            self._fail_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._closed and not (self._batches or self._slow or self._waiting_slow):
                self._collect()
                patience = self._patience()
                if patience == 0.0 or self._waiting_slow:
                    break
                self._changed.wait(patience)
            self._collect()
            return self._closed is None

    def _collect(self) -> None:
        while self._arrived:
            job = self._arrived.popleft()
            (self._waiting_slow if self._is_slow(job.request) else self._waiting).append(job)

    def _patience(self) -> float | None:
        """How long the waiting requests may wait for companions; None without any."""
        if not self._waiting:
            return None
        if len(self._waiting) >= _GROUP or self._waiting[0].failures:
            return 0.0
        waited = time.monotonic() - self._waiting[0].arrived
        return max(0.0, min(self._step_s, _MOST_PATIENCE_S) - waited)

    def _is_slow(self, request: Request) -> bool:
        return bool(needs_generator(request)) or (len(request.prompt) > LONG_PROMPT and self._settings.slow_path_requests > 0)

    def _drop_cancelled(self) -> None:
        for job in self._jobs():
            if job.cancelled:
                job.fail(RequestError("the client cancelled the request", Kind.CANCELLED))
        for batch in self._batches:
            batch.release_done()
        self._sweep()

    def _admit(self) -> None:
        while self._patience() == 0.0 and (idle := self._settings.engines - len(self._batches)) > 0:
            size = min(max(-(-len(self._waiting) // idle), _GROUP), self._settings.max_batch_size)
            group = choose_group(self._waiting, size=size, cache_tokens=self._cache_tokens)
            self._waiting = [job for job in self._waiting if job not in group]
            try:
                batch = Batch(self._model, group)
                batch.start()
                self._batches.append(batch)
            except BatchError as error:
                self._recover(group, error)
        while self._waiting_slow and len(self._slow) < self._settings.slow_path_requests:
            job = self._waiting_slow.pop(0)
            try:
                self._slow.append(SlowPath(self._model, job, self._facts))
            except Exception as error:
                self._fail(job, error)

    def _step(self) -> None:
        for batch in list(self._batches):
            began = time.monotonic()
            try:
                batch.step()
                self._step_s = time.monotonic() - began
            except BatchError as error:
                self._batches.remove(batch)
                self._recover(batch.jobs, error)
        for slow in self._slow:
            try:
                slow.step()
            except Exception as error:
                self._fail(slow.job, error)
        self._sweep()

    def _recover(self, jobs: Sequence[Job], error: BatchError) -> None:
        """An engine failed, which ends it for its whole group. Each goes on alone, where it was; if that fails, too, it
        is the request's own failure."""
        again: list[Job] = []
        for job in jobs:
            job.failures += 1
            if job.done:
                continue
            if job.failures < _ATTEMPTS:
                again.append(job)
            else:
                self._fail(job, error)
        self._waiting[:0] = again

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, RequestError):
            self._log(f"a request failed: {error!r}")
            error = RequestError(f"the request could not be computed: {error}", Kind.INTERNAL)
        job.fail(error)

    def _sweep(self) -> None:
        """Forgets what has ended; its memory goes with it."""
        self._batches = [batch for batch in self._batches if batch.jobs]
        self._slow = [slow for slow in self._slow if not slow.job.done]
        self._waiting = [job for job in self._waiting if not job.done]
        self._waiting_slow = [job for job in self._waiting_slow if not job.done]

    def _jobs(self) -> list[Job]:
        running = [job for batch in self._batches for job in batch.jobs]
        return [*self._waiting, *self._waiting_slow, *running, *(slow.job for slow in self._slow)]

    def _close(self, reason: RequestError) -> None:
        with self._changed:
            self._closed = self._closed or reason
            self._changed.notify()

    def _fail_all(self) -> None:
        with self._changed:
            reason = self._closed or RequestError("the model has stopped", Kind.INTERNAL)
            jobs = [*self._arrived, *self._jobs()]
            self._arrived.clear()
        for job in jobs:
            job.fail(reason)
        self._batches, self._slow, self._waiting, self._waiting_slow = [], [], [], []


def choose_group(waiting: Sequence[Job], *, size: int, cache_tokens: int) -> list[Job]:
    """The group that starts next: the request that has waited longest, and those whose answers can become about as long,
    since a row is computed until the whole group has ended."""
    first, *others = waiting
    group = [first]
    if first.failures:
        return group  # whatever failed is tried alone
    others = [job for job in others if not job.failures]
    others.sort(key=lambda job: abs(job.request.max_tokens - first.request.max_tokens))
    for job in others:
        if len(group) == size:
            break
        if _fits([*group, job], cache_tokens):
            group.append(job)
    return group


def _fits(group: Sequence[Job], cache_tokens: int) -> bool:
    rows = len(group)
    prompts = max(len(job.request.prompt) for job in group)
    totals = max(job.request.total_tokens for job in group)
    return rows * prompts <= _PROMPT_TOKENS and rows * totals <= cache_tokens
