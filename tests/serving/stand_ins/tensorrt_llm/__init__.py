"""A stand-in for the package tensorrt_llm, for tests: as much of its LLM API as our llmapi model calls.

It runs an ONNX Runtime engine, which lies in `genai/` of the checkpoint folder. Greedy only. What it imitates: outputs whose
`text` is all that was said so far, `abort`, stop words that are cut off, an error for arguments that LLM() does not have, LoRA
adapters (whose adapter_config.json may say `test_upper`: the answer comes in capitals, with the adapter's number in front).
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"model", "backend", "dtype", "trust_remote_code", "tensor_parallel_size", "pipeline_parallel_size", "max_batch_size"}
KNOWN |= {"enable_chunked_prefill", "max_beam_width", "max_seq_len", "kv_cache_config", "lora_config"}


@dataclass
class SamplingParams:
    max_tokens: int = 32
    stop: list = field(default_factory=list)
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    best_of: int = 1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass
class CompletionOutput:
    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | None = None
    cumulative_logprob: float | None = None


class RequestOutput:
    def __init__(self, llm, prompt, sampling, streaming, lora_request=None):
        self.llm, self.prompt, self.sampling, self.streaming = llm, prompt, sampling, streaming
        self.lora_request = lora_request
        self.outputs = [CompletionOutput()]
        self.finished = False
        self.aborted = False
        self.said = 0

    def abort(self):
        self.aborted = True
        (Path(self.llm.folder) / "aborted").write_text(str(self.said))

    def adapted(self, text):
        if self.lora_request is None:
            return text
        config = json.loads((Path(self.lora_request.path) / "adapter_config.json").read_text())
        return f"{self.lora_request.adapter_id}:{text.upper()}" if config.get("test_upper") else text

    async def __aiter__(self):
        import numpy as np
        import onnxruntime_genai as og

        tokens = self.llm.tokenizer.encode(self.prompt).ids if isinstance(self.prompt, str) else self.prompt
        if not tokens:
            raise ValueError("the prompt is empty")
        parameters = og.GeneratorParams(self.llm.model)
        parameters.set_search_options(do_sample=False, max_length=len(tokens) + self.sampling.max_tokens)
        generator = og.Generator(self.llm.model, parameters)
        generator.append_tokens(np.array(tokens, dtype=np.int32))
        said, output = [], self.outputs[0]
        while not self.finished:
            await asyncio.sleep(0.001 * self.llm.pause_ms)
            generator.generate_next_token()
            said.append(int(generator.get_next_tokens()[0]))
            output.text = self.adapted(self.llm.tokenizer.decode(said))
            for word in self.sampling.stop:
                if word in output.text:
                    output.text, output.finish_reason, output.stop_reason = output.text.split(word)[0], "stop", word
            if output.finish_reason is None and len(said) == self.sampling.max_tokens:
                output.finish_reason = "length"
            self.said = len(said)
            if self.aborted:
                return
            self.finished = output.finish_reason is not None
            if self.streaming or self.finished:
                yield self


class LLM:
    def __init__(self, **arguments):
        import onnxruntime_genai as og
        from tokenizers import Tokenizer

        unknown = sorted(set(arguments) - KNOWN)
        if unknown:
            raise ValueError(f"LLM() has no argument {unknown[0]}")
        assert not [name for name in os.environ if name.startswith("OMPI_COMM_WORLD")]
        self.lora = arguments.get("lora_config")
        if self.lora is not None and len(self.lora.get("lora_dir", [])) != 1:
            assert len(self.lora.get("lora_target_modules", [])) >= 1, "Expecting at least one lora target module"
        self.folder = arguments["model"]
        og.disable_telemetry_events()
        self.model = og.Model(f"{self.folder}/genai")
        self.tokenizer = Tokenizer.from_file(f"{self.folder}/tokenizer.json")
        self.pause_ms = json.loads((Path(self.folder) / "config.json").read_text()).get("test_pause_ms", 0)

    def generate_async(self, inputs, sampling_params, lora_request=None, streaming=False):
        if lora_request is not None and self.lora is None:
            raise ValueError("LoRA is not enabled")
        return RequestOutput(self, inputs, sampling_params, streaming, lora_request)

    def shutdown(self):
        time.sleep(0)
