"""The Triton model that serves an ONNX Runtime GenAI engine: only what Triton calls. The rest is in the files beside it.

    <version folder>/model.py, llm_*.py
                     engine/       what onnxruntime-genai's builder wrote
                     tokenizer/    the checkpoint's tokenizer, chat template and generation config

From a request to its answer: llm_request checks the inputs, llm_tokenizer makes tokens of the prompt, llm_scheduler answers
in its own thread with llm_batch and llm_slow_path, llm_job makes text of the tokens (llm_detokenize, llm_stops), and
llm_responder sends it. llm_threads says how many threads compute.

It needs numpy, tokenizers, onnxruntime-genai and, for chat messages, jinja2.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

# A release is not for Python's cache. (Of this file itself it has been written before this line runs.)
sys.dont_write_bytecode = True

import onnxruntime_genai as og  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from llm_errors import Kind, RequestError  # noqa: E402
from llm_job import Reply  # noqa: E402
from llm_request import INPUT_NAMES, Preparer, read_inputs  # noqa: E402
from llm_responder import Responder  # noqa: E402
from llm_scheduler import Scheduler  # noqa: E402
from llm_settings import EngineFacts, Settings, engine_overlay  # noqa: E402
from llm_tokenizer import Tokenizer  # noqa: E402
from llm_unknown import refuse_unknown  # noqa: E402


class TritonPythonModel:
    """What Triton's python backend loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine and the tokenizer; what is wrong with them is the load error that Triton shows."""
        folder = Path(__file__).parent
        parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"]).get("parameters", {}).items()
        }
        settings = Settings.from_parameters(parameters)
        facts = EngineFacts.read(folder / "engine", folder / "tokenizer")
        tokenizer = Tokenizer(folder / "tokenizer")
        og.disable_telemetry_events()
        config = og.Config(str(folder / "engine"))
        config.overlay(engine_overlay(settings, facts))
        model = og.Model(config)
        log = pb_utils.Logger.log_error
        self._preparer = Preparer(settings=settings, facts=facts, tokenizer=tokenizer)
        self._scheduler = Scheduler(model, settings=settings, facts=facts, detokenizer=tokenizer.detokenizer, log=log)
        self._responder = Responder(cancel=self._scheduler.cancel, log=log)

    def execute(self, requests: list[Any]) -> None:
        """Takes requests and returns at once; the answers follow from the responder's thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                refuse_unknown(request.parameters(), INPUT_NAMES)
                tensors = {
                    name: tensor.as_numpy()
                    for name in INPUT_NAMES
                    if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
                }
                prepared = self._preparer.prepare(read_inputs(tensors))
                job = self._scheduler.submit(prepared, functools.partial(self._responder.put, sender))
                self._responder.watch(sender, job)
            except RequestError as error:
                self._responder.put(sender, Reply(error=error))
            except Exception as error:  # one request must not take the others with it
                pb_utils.Logger.log_error(f"a request failed before it was scheduled: {error!r}")
                self._responder.put(sender, Reply(error=RequestError(f"the request could not be read: {error}", Kind.INTERNAL)))

    def finalize(self) -> None:
        """Ends outstanding requests with an error, and both threads."""
        self._scheduler.stop()
        self._responder.stop()
