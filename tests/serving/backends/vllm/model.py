"""A stand-in for Triton's vLLM backend, for tests: it has that backend's tensors (vllm_backend, src/model.py) and echoes.

It reads model.json as the real one does, looks for the checkpoint, and answers with the words of the prompt.
"""

import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        assert pb_utils.using_decoupled_model_transaction_policy(config)
        with open(os.path.join(args["model_repository"], args["model_version"], "model.json")) as file:
            self.arguments = json.load(file)
        if not os.path.isfile(os.path.join(self.arguments["model"], "config.json")):
            raise RuntimeError(f"no checkpoint at {self.arguments['model']}")

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode()
            sampling = pb_utils.get_input_tensor_by_name(request, "sampling_parameters")
            sampling = json.loads(sampling.as_numpy()[0]) if sampling is not None else {}
            stream = pb_utils.get_input_tensor_by_name(request, "stream")
            words = text.split()[: int(sampling.get("max_tokens", 16))]
            pieces = [" " + word for word in words] if stream is not None and stream.as_numpy()[0] else [" " + " ".join(words)]
            for piece in pieces:
                tensor = pb_utils.Tensor("text_output", np.array([piece.encode()], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=FINAL)
