"""A group of requests that one og.Engine answers together.

On a CPU og.Engine batches statically: requests that start together are computed together, whatever their lengths, and a
request that comes later waits until the last of them has ended. So a group gets an engine of its own, which costs
microseconds - the weights belong to the og.Model - and gives its cache back with the group.

All calls must come from the thread that made the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime_genai as og
from llm_errors import Kind, RequestError
from llm_job import END_OF_ANSWER, LENGTH, Job

_EVENTS = 64


class BatchError(Exception):
    """The engine failed: no request of the group can go on in it."""


class Batch:
    """One engine and its group."""

    def __init__(self, model: og.Model, jobs: Sequence[Job]) -> None:
        self._engine = og.Engine(model)
        self._events = self._engine.create_event_buffer(_EVENTS)
        self._rows: dict[og.Request, tuple[Job, int]] = {}
        self.jobs = list(jobs)
        """Those not done yet."""

    def start(self) -> None:
        """Hands the group to the engine.

        Raises:
            BatchError: the engine refuses it.
        """
        try:
            for job in self.jobs:
                self._add(job)
        except Exception as error:  # the library raises RuntimeError, and TypeError for what does not fit its types
            raise BatchError(str(error)) from error

    def step(self) -> None:
        """Computes the next token of every row and gives it to its job.

        Raises:
            BatchError: the engine failed.
        """
        try:
            events = self._engine.run(self._events)
        except Exception as error:
            raise BatchError(str(error)) from error
        for event in events:
            row = self._rows.get(event.request)
            if row is not None:
                self._take(event, row[0])
        self.release_done()

    def release_done(self) -> None:
        """Takes done jobs out of the engine, which computes nothing more for them."""
        for request, (job, turn) in list(self._rows.items()):
            if job.done:
                request.cancel_turn(turn)
                request.close()
                del self._rows[request]
                self.jobs.remove(job)

    def _add(self, job: Job) -> None:
        request = job.request
        session = og.RequestOptions()
        # The cache is made for the longest session of the group: without this, for the model's whole context.
        session.set_max_session_tokens(request.total_tokens)
        row = self._engine.create_request(options=session)
        options = og.TurnOptions(row)
        options.set_max_generated_tokens(job.tokens_left)
        options.set_min_generated_tokens(max(0, request.min_tokens - len(job.tokens)))
        options.set_repetition_penalty(request.repetition_penalty)
        # All of them, always: what is not set comes from genai_config.json's `search`.
        options.set_do_sample(request.sampling is not None)
        if request.sampling is not None:
            options.set_temperature(request.sampling.temperature)
            options.set_top_k(request.sampling.top_k)
            options.set_top_p(request.sampling.top_p)
        # A job whose last engine failed goes on where it was.
        turn = row.begin_turn(np.array([*request.prompt, *job.tokens], dtype=np.int32), options)
        self._rows[row] = (job, turn)

    def _take(self, event: og.EngineEvent, job: Job) -> None:
        flags = event.flags.value
        if flags & og.EngineEventFlags.FAILED.value:
            raise BatchError(f"the engine failed ({event.error_code.name})")
        try:
            if flags & og.EngineEventFlags.TOKEN.value and not job.done:
                job.push(event.token)
            if flags & og.EngineEventFlags.TURN_FINISHED.value and not job.done:
                job.finish(END_OF_ANSWER if event.finish_reason == og.FinishReason.EOS else LENGTH)
        except Exception as error:  # of this job's text: the other rows go on
            job.fail(RequestError(f"the answer's text could not be made: {error!r}", Kind.INTERNAL))
