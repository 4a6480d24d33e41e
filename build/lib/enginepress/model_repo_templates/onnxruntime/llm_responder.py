"""Replies on their way to Triton, and the watch for clients that have gone: a thread of its own, because both talk to
the server's process and the scheduler must not wait for that."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from llm_job import Job, Reply
from llm_triton_error import to_triton_error

_WATCH_SECONDS = 0.1


class Responder:
    """Sends replies in the order in which they were put."""

    def __init__(self, *, cancel: Callable[[Job], None], log: Callable[[str], None]) -> None:
        self._cancel = cancel
        self._log = log
        self._replies: queue.SimpleQueue[tuple[Any, Reply] | None] = queue.SimpleQueue()
        self._watched: dict[Any, Job] = {}  # by response sender
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def put(self, sender: Any, reply: Reply) -> None:
        """Takes a reply for this request's response sender."""
        self._replies.put((sender, reply))

    def watch(self, sender: Any, job: Job) -> None:
        """Cancels the job once its client is gone."""
        with self._lock:
            if not job.done:
                self._watched[sender] = job

    def stop(self) -> None:
        """Returns when everything that was put has been sent."""
        self._replies.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_look = 0.0
        while True:
            try:
                item = self._replies.get(timeout=max(0.0, next_look - time.monotonic()) if self._watched else None)
                if item is None:
                    return
                self._send(*item)
            except queue.Empty:
                pass
            if self._watched and time.monotonic() >= next_look:
                self._look_for_cancelled()
                next_look = time.monotonic() + _WATCH_SECONDS

    def _send(self, sender: Any, reply: Reply) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if reply.last else 0
        if reply.last:
            with self._lock:
                self._watched.pop(sender, None)
        try:
            sender.send(to_response(reply), flags=flags)
        except Exception as error:  # this client only
            self._log(f"a response could not be sent: {error!r}")

    def _look_for_cancelled(self) -> None:
        with self._lock:
            watched = list(self._watched.items())
        for sender, job in watched:
            if not job.cancelled and sender.is_cancelled():
                self._cancel(job)


def to_response(reply: Reply) -> Any:
    """The reply as Triton's response."""
    if reply.error is not None:
        return pb_utils.InferenceResponse(error=to_triton_error(reply.error))
    tensors = [
        pb_utils.Tensor("text_output", np.array([reply.text.encode("utf-8")], dtype=np.object_)),
        pb_utils.Tensor("finish_reason", np.array([reply.finish_reason.encode("utf-8")], dtype=np.object_)),
        pb_utils.Tensor("output_token_count", np.array([reply.output_tokens], dtype=np.int32)),
        pb_utils.Tensor("prompt_token_count", np.array([reply.prompt_tokens], dtype=np.int32)),
    ]
    if reply.log_probs is not None:
        tensors.append(pb_utils.Tensor("cum_log_probs", np.array([reply.cum_log_probs], dtype=np.float32)))
        tensors.append(pb_utils.Tensor("output_log_probs", np.array(reply.log_probs, dtype=np.float32)))
    return pb_utils.InferenceResponse(output_tensors=tensors)
