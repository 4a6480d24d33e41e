"""A tiny "language model" for the real Triton's Python backend: it repeats the words of its prompt, one token each.

Its answer depends on nothing but the prompt and max_tokens, so tests know it beforehand (`toy_answer`), and it loads in half a
second. `fault` makes it do what broken models do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Fault = Literal[
    "", "load", "import", "hang", "die", "error", "stream differs", "broken utf-8", "no text", "die on load", "die later"
]

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input {{ name: "text_input" data_type: TYPE_STRING dims: [1] optional: true }}
input {{ name: "messages" data_type: TYPE_STRING dims: [1] optional: true }}
input {{ name: "max_tokens" data_type: TYPE_INT32 dims: [1] optional: true }}
input {{ name: "stream" data_type: TYPE_BOOL dims: [1] optional: true }}
output {{ name: "text_output" data_type: TYPE_STRING dims: [1] }}
output {{ name: "finish_reason" data_type: TYPE_STRING dims: [1] }}
output {{ name: "output_token_count" data_type: TYPE_INT32 dims: [1] }}
output {{ name: "prompt_token_count" data_type: TYPE_INT32 dims: [1] }}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "fault" value {{ string_value: "{fault}" }} }}
parameters {{ key: "pace_s" value {{ string_value: "{pace_s}" }} }}
{policy}
"""

MODEL = """
import json, os, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

MARK


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.fault = parameters["fault"]["string_value"]
        self.pace_s = float(parameters["pace_s"]["string_value"])
        if self.fault == "load":
            raise RuntimeError("the engine folder holds no model.onnx")
        if self.fault == "die on load":
            os._exit(3)
        if self.fault == "hang":
            time.sleep(3600)

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,), daemon=True).start()

    def answer(self, request):
        sender = request.get_response_sender()
        value = {t.name(): t.as_numpy().reshape(-1)[0] for t in request.inputs()}
        prompt = value["text_input"] if "messages" not in value else json.loads(value["messages"])[-1]["content"].encode()
        words = prompt.decode().split()
        pieces = [" " + words[i % len(words)] for i in range(int(value.get("max_tokens", 16)))]
        streamed = bool(value.get("stream", False))
        if self.fault == "die" or (self.fault == "die later" and "last" in words):
            os._exit(3)
        if self.fault == "error":
            error = pb_utils.TritonError("too many requests: 64 are running")
            sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        if self.fault == "stream differs" and streamed:
            pieces[-1] = " other"
        if self.fault == "no text":
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        if not streamed:
            time.sleep(self.pace_s * len(pieces))
            self.send(sender, "".join(pieces), len(pieces), "length", words)
        for number, piece in enumerate(pieces if streamed else [], 1):
            time.sleep(self.pace_s)
            self.send(sender, piece, number, "length" if number == len(pieces) else "", words)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def send(self, sender, text, count, reason, words):
        data = b"\\xff\\xfe" if self.fault == "broken utf-8" else text.encode()
        sender.send(pb_utils.InferenceResponse([
            pb_utils.Tensor("text_output", np.array([data], dtype=np.object_)),
            pb_utils.Tensor("finish_reason", np.array([reason.encode()], dtype=np.object_)),
            pb_utils.Tensor("output_token_count", np.array([count], dtype=np.int32)),
            pb_utils.Tensor("prompt_token_count", np.array([len(words)], dtype=np.int32)),
        ]))
"""


def toy_answer(prompt: str, max_tokens: int) -> str:
    """What the toy model says to a prompt."""
    words = prompt.split()
    return "".join(" " + words[i % len(words)] for i in range(max_tokens))


def write_model(
    repository: Path,
    name: str = "toy",
    *,
    version: int = 1,
    fault: Fault = "",
    pace_s: float = 0.0,
    placed: bool = True,
    at_import: str = "",
) -> Path:
    """Writes the toy model into a repository and returns the repository.

    Args:
        pace_s: seconds per token.
        placed: with a version policy; an unplaced one has none, and version 0.
        at_import: a line of Python that runs when the model is imported.
    """
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    policy = f"version_policy {{ specific {{ versions: [{version}] }} }}" if placed else ""
    (folder / "config.pbtxt").write_text(CONFIG.format(name=name, fault=fault, pace_s=pace_s, policy=policy))
    mark = "import a_package_that_nobody_has" if fault == "import" else at_import
    (folder / str(version) / "model.py").write_text(MODEL.replace("MARK", mark))
    return repository


def write_tokenizer(folder: Path, text: str) -> None:
    """A tokenizer.json that has one token for each word of `text`, with the space in front of it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = dict.fromkeys(word for w in text.split() for word in (w, f" {w}"))
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **{w: i for i, w in enumerate(words, 1)}}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[^ ]+"), behavior="isolated")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
