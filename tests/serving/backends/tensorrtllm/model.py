"""A stand-in for NVIDIA's `tensorrtllm` backend, for tests: it has that backend's tensors and runs an ONNX Runtime engine.

A python-based backend: Triton runs this file for every model whose config says `backend: "tensorrtllm"`. `gpt_model_path`
names a folder made by the onnxruntime builder. What it imitates of the real one (tensorrtllm_backend v0.18.2,
inflight_batcher_llm/src): an input that is a batch is answered row by row, with `batch_index`; a streamed response has the new
tokens only; stop words are part of the answer; an output is there only if it was asked for and has a value; batches and
streams are refused unless the model is decoupled; `stop` ends the request of the same id. What it does not: sampling (only
greedy), beams, LoRA, logits, metrics. Those inputs are refused if they ask for something.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime_genai as og
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
SEED_NAMES = ("seed", "random_seed")
NOT_HERE = ("beam_width", "num_return_sequences")


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        og.disable_telemetry_events()
        self.model = og.Model(self.parameters["gpt_model_path"])
        self.exclude = self.parameters.get("exclude_input_in_output") == "true"
        self.pool = ThreadPoolExecutor(max_workers=4)
        self.stopped = set()
        # For tests: what it says whatever it is asked, and a pause after each token, to be able to interrupt it.
        self.script = json.loads(self.parameters.get("test_tokens", "null"))
        self.delay_s = float(self.parameters.get("test_delay_ms", "0")) / 1000

    def execute(self, requests):
        if not self.decoupled:
            return [self.answer_whole(request) for request in requests]
        for request in requests:
            self.pool.submit(self.answer_stream, request, request.get_response_sender())
        return None

    def answer_whole(self, request):
        try:
            rows = read_rows(request, decoupled=False)
            (response,) = self.responses(rows[0], request, 0, 1, lambda: False)
            return response
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def answer_stream(self, request, sender):
        if flag(request, "stop", 0):
            self.stopped.add(request.request_id())
            sender.send(flags=FINAL)
            return
        try:
            rows = read_rows(request, decoupled=True)
            # Rows are answered together, as in-flight batching does: their responses come mixed.
            running = [self.responses(row, request, i, len(rows), sender.is_cancelled) for i, row in enumerate(rows)]
            while running:
                for generator in list(running):
                    response = next(generator, None)
                    if response is None:
                        running.remove(generator)
                    else:
                        sender.send(response)
            sender.send(flags=FINAL)
        except Exception as error:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)
        finally:
            self.stopped.discard(request.request_id())

    def responses(self, row, request, index, rows, cancelled):
        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(do_sample=False, max_length=len(row["input_ids"]) + row["request_output_len"])
        generator = og.Generator(self.model, parameters)
        generator.append_tokens(np.array(row["input_ids"], dtype=np.int32))
        exclude = flag(request, "exclude_input_in_output", index, self.exclude)
        streaming = flag(request, "streaming", index)
        said = []
        for _ in range(row["request_output_len"]):
            if cancelled() or request.request_id() in self.stopped:
                if "test_log" in self.parameters:
                    with open(self.parameters["test_log"], "a") as log:
                        log.write(f"cancelled after {len(said)}\n")
                break
            bias(generator, row["embedding_bias"], row["bad_words"], said)
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0]) if self.script is None else self.script[len(said)]
            if token == row["end_id"]:
                break
            said.append(token)
            if streaming:
                yield response_of(request, [token], index, rows)
            if any(said[-len(word) :] == word for word in row["stop_words"]):
                break
            if self.delay_s:
                time.sleep(self.delay_s)
        if not streaming:
            yield response_of(request, said if exclude else row["input_ids"] + said, index, rows)

    def finalize(self):
        self.pool.shutdown(wait=True, cancel_futures=True)


def read_rows(request, *, decoupled):
    ids = tensor(request, "input_ids")
    lengths = tensor(request, "input_lengths").reshape(-1)
    if len(ids) > 1 and not decoupled:
        raise ValueError("Batch size > 1 requires the tensorrt_llm backend to be using decoupled transaction policy")
    if not decoupled and flag(request, "streaming", 0):
        raise ValueError("Streaming is only supported if model is deployed using decoupled mode.")
    for name in NOT_HERE:
        value = tensor(request, name)
        if value is not None and (value != 1).any():
            raise ValueError(f"the stand-in has no {name} above 1")
    for name in ("temperature", "runtime_top_p"):
        value = tensor(request, name)
        if value is not None and value.any() and scalar(request, "runtime_top_k", 0, 0) != 1:
            raise ValueError(f"the stand-in is greedy: it has no {name}")
    rows = []
    for index in range(len(ids)):
        rows.append(
            {
                "input_ids": ids[index, : lengths[index]].tolist(),
                "request_output_len": scalar(request, "request_output_len", index, None),
                "end_id": scalar(request, "end_id", index, -1),
                "stop_words": words(request, "stop_words_list", index),
                "bad_words": words(request, "bad_words_list", index),
                "embedding_bias": vector(request, "embedding_bias", index),
            }
        )
    return rows


def tensor(request, name):
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy()


def scalar(request, name, index, default):
    value = tensor(request, name)
    return default if value is None else value.reshape(-1)[index].item()


def flag(request, name, index, default=False):
    return bool(scalar(request, name, index, default))


def vector(request, name, index):
    value = tensor(request, name)
    return None if value is None or value.size == 0 else value[index]


def words(request, name, index):
    """The lists of tokens that [2, n] holds: flattened, with the offset at which each ends, then -1."""
    value = tensor(request, name)
    if value is None or value.size == 0:
        return []
    flat, ends = value[index]
    found, start = [], 0
    for end in ends.tolist():
        if end == -1:
            break
        found.append(flat[start:end].tolist())
        start = end
    return found


def bias(generator, added, bad_words, said):
    banned = [word[-1] for word in bad_words if said[len(said) - len(word) + 1 :] == word[:-1]]
    if added is None and not banned:
        return
    logits = np.array(generator.get_logits(), dtype=np.float32)
    if added is not None:
        logits[..., : len(added)] += added
    logits[..., banned] = -np.inf
    generator.set_logits(logits)


def response_of(request, tokens, index, rows):
    asked = set(request.requested_output_names())
    values = {
        "output_ids": np.array([[tokens]], dtype=np.int32).reshape(1, 1, -1),
        "sequence_length": np.array([[len(tokens)]], dtype=np.int32),
        "sequence_index": np.zeros((1, 1), dtype=np.int32),
    }
    if rows > 1:
        values["batch_index"] = np.full((1, 1), index, dtype=np.int32)
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in values.items() if name in asked])
