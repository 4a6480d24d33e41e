"""TensorRT-LLM's LLM API, in an event loop of its own.

Needs TensorRT-LLM 1.0 or later: LLM, SamplingParams, generate_async() and its result's abort().
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmapi_request import Request

_OF_A_JOB = ("OMPI_COMM_WORLD_", "OMPI_MCA_orte_", "ORTE_", "PMI_")
_OF_A_PROCESS = ("PMIX_RANK", "PMIX_NAMESPACE", "PMIX_HOSTNAME", "PMIX_SERVER_", "PMIX_VERSION", "PMIX_SYSTEM_TMPDIR")


@dataclass(frozen=True)
class Piece:
    """What an answer's sequences have become: for each its whole text so far, and why it ended."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    stop_reasons: tuple[str, ...]
    logprobs: tuple[float, ...]
    last: bool


class Engine:
    """One loaded LLM."""

    def __init__(self, arguments: Mapping[str, Any], adapters: Mapping[str, str] | None = None) -> None:
        """Loads it; what LLM() raises is the load error.

        Args:
            adapters: LoRA adapters by name, each with its folder.
        """
        for name, folder in (adapters or {}).items():
            if not os.path.exists(folder):
                raise FileNotFoundError(f"adapter '{name}': {folder} is not there on this machine; put it there, then load again")
        forget_mpi_job()
        # Imported here: it initialises CUDA, and forget_mpi_job must come first.
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict

        self._sampling = SamplingParams
        self._adapters = _lora_requests(adapters or {}, arguments)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        # Nested values of a YAML file become the classes that LLM() wants.
        self._llm = LLM(**update_llm_args_with_extra_dict({}, dict(arguments)))

    def ask(
        self, request: Request, *, take: Callable[[Piece], None], fail: Callable[[Exception], None], gone: Callable[[], bool]
    ) -> None:
        """Starts an answer; `take` gets its pieces in the loop's thread, the last one with `last`, or `fail` an error.

        Args:
            gone: asked before each piece: whether the client has gone, which ends the answer.
        """
        asyncio.run_coroutine_threadsafe(self._answer(request, take, fail, gone), self._loop)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._llm.shutdown()

    async def _answer(self, request: Request, take: Any, fail: Any, gone: Any) -> None:
        try:
            sampling = self._sampling(**request.sampling)
            more = {"lora_request": self._adapters[request.adapter]} if request.adapter is not None else {}
            result = self._llm.generate_async(request.prompt, sampling, streaming=request.streaming, **more)
            output = None
            async for output in result:
                if gone():
                    result.abort()
                    take(_piece(output, last=True))
                    return
                if request.streaming:
                    take(_piece(output, last=bool(output.finished)))
            if not request.streaming:
                take(_piece(output, last=True))
        except Exception as error:  # one request must not take the others with it
            fail(error)


def _lora_requests(adapters: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What generate_async() takes for each adapter: its name, a number of its own from 1 on, and its folder."""
    if not adapters:
        return {}
    from tensorrt_llm.executor import LoRARequest

    source = (arguments.get("lora_config") or {}).get("lora_ckpt_source")
    # Only releases that know NeMo's adapters have this argument.
    more = {"lora_ckpt_source": source} if source not in (None, "hf") else {}
    return {name: LoRARequest(name, number, adapters[name], **more) for number, name in enumerate(sorted(adapters), start=1)}


def _piece(output: Any, *, last: bool) -> Piece:
    sequences = output.outputs
    return Piece(
        texts=tuple(s.text for s in sequences),
        finish_reasons=tuple(str(s.finish_reason or "") for s in sequences),
        stop_reasons=tuple("" if s.stop_reason is None else str(s.stop_reason) for s in sequences),
        logprobs=tuple(float(s.cumulative_logprob or 0.0) for s in sequences),
        last=last,
    )


def forget_mpi_job() -> None:
    """Takes away what mpirun said about the server's own process: the LLM API starts workers of its own by MPI."""
    for name in list(os.environ):
        if name.startswith(_OF_A_JOB) or name.startswith(_OF_A_PROCESS):
            del os.environ[name]
