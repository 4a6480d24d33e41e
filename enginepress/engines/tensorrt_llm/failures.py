"""What a failed run of one of TensorRT-LLM's tools means, read from its exit status and its log, and what to do about it.

The patterns are the tools' own messages, as in their sources and in the issues at github.com/NVIDIA/TensorRT-LLM (numbers
beside them).
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

from enginepress.errors import BuildError
from enginepress.process import last_lines

_LESS_MEMORY = (
    "lower engine.limits.max_num_tokens, max_batch_size or max_sequence_length, spread the model over more GPUs "
    "(engine.parallelism), or take a smaller precision; `enginepress plan` says what fits"
)
_LESS_HOST_MEMORY = (
    "give the step more memory, set workers: 1 in engine.options, or let convert_checkpoint.py read in parts "
    "(load_by_shard: true in engine.options.convert, where the model's script has it)"
)
_MORE_SHARED_MEMORY = "give the container more: docker --shm-size=2g, a pod an emptyDir with medium: Memory at /dev/shm"
_SAME_IMAGE = "build, convert and serve in one and the same container image"

_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "there is no space left",
        "free some space, or name a workspace on another disk",
    ),
    (
        r"CUDA driver version is insufficient|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|driver on your system is too old|"
        r"forward compatibility was attempted on non supported HW",
        "the NVIDIA driver is too old for this container's CUDA",
        "update the driver (`enginepress plan` names the version), or take an older engine.container",
    ),
    (
        r"No CUDA GPUs are available|no CUDA-capable device|CUDA_ERROR_NO_DEVICE|GPU is required|"
        r"Found no NVIDIA driver|libcuda\.so\.1: cannot open|libnvidia-ml\.so\.1: cannot open",
        "there is no GPU here, or the container does not see it",
        "run this step on a GPU: docker needs --gpus all, a pod nvidia.com/gpu in its limits",
    ),
    (  # 346, 1543, 2451
        r"CUDA out of memory|OutOfMemory|torch\.cuda\.OutOfMemoryError|cudaErrorMemoryAllocation|CUDA error: out of memory|"
        r"Requested amount of GPU memory \((?P<bytes>\d+) bytes\) could not be allocated",
        "the GPU's memory ran out",
        _LESS_MEMORY,
    ),
    (  # 102, 743, 1728, 2093
        r"MemoryError|std::bad_alloc|[Cc]annot allocate memory|can't allocate memory|A process in the process pool was "
        r"terminated abruptly",
        "the machine's memory ran out",
        _LESS_HOST_MEMORY,
    ),
    (  # 1803, 1838; tensorrtllm_backend 235, 531
        r"[Vv]ersion tag does not match|[Ss]erialization version|incompatible (?:serialization|TensorRT) version|"
        r"expecting library version (?P<what>\S+ got \S+)",
        "a file was written by another version of TensorRT",
        _SAME_IMAGE + "; empty the folder of timing caches (ENGINEPRESS_TIMING_CACHE) if it is shared",
    ),
    (
        r"incompatible device, expecting compute (?P<what>[\d.]+ got compute [\d.]+)",
        "a file was made for another GPU architecture (compute {what})",
        "build on the GPU that serves, and name it in engine.gpu.name",
    ),
    (  # 39, 1047, 1992, 2021
        r"mpiSize == tp \* pp|MPI worldSize is expected to be equal|world_size .{0,40}(?:does not match|must be equal)|"
        r"assert rank < .*world_size|Expected world_size|Invalid tp_size|Invalid TP size",
        "the checkpoint is for another number of GPUs than the build",
        "set engine.parallelism to one and the same for conversion and build: `enginepress run --force` makes both anew",
    ),
    (
        r"moe_tp_size \* moe_ep_size must equal",
        "moe_tensor times moe_expert is not tensor",
        "set engine.parallelism.moe_tensor and moe_expert so that their product is engine.parallelism.tensor",
    ),
    (
        r"Pipeline parallelism is not supported",
        "this model's script has no pipeline parallelism",
        "use engine.parallelism.tensor instead of pipeline",
    ),
    (  # tensorrt_llm/commands/build.py
        r"Unsupported model architecture: (?P<what>\S+)|Invalid model type|model type .{0,40}not supported",
        "this version of TensorRT-LLM builds no such architecture ({what})",
        "take a newer engine.container, or engine.builder: llmapi",
    ),
    (
        r"Unknown model type (?P<what>\S+)\.",
        "quantize.py does not know this architecture ({what})",
        "use engine.precision float16 or bfloat16, or engine.builder: llmapi",
    ),
    (  # 442
        r"TensorRT[- ]LLM Plugin is unavailable|libnvinfer_plugin_tensorrt_llm|[Pp]lugin (?:not found|creator .{0,60}not found)|"
        r"getPluginCreator could not find plugin (?P<what>\S+)",
        "TensorRT-LLM's plugins cannot be loaded",
        "take NVIDIA's image as it is: its libraries belong together",
    ),
    (
        r"(?P<what>\w+=\S+ is not supported on SM \d+)",
        "a plugin does not exist for this GPU ({what})",
        "leave it out of engine.options.build",
    ),
    (
        r"Paged Context FMHA (?P<what>doesn't work with int8|only works with fp8).*",
        "use_paged_context_fmha does not go with this KV cache",
        "leave use_paged_context_fmha out of engine.options.build",
    ),
    (
        r"desc_act=True is not implemented",
        "GPTQ with desc_act is not read by TensorRT-LLM",
        "take a checkpoint that was quantized with desc_act: false, or the unquantized one",
    ),
    (
        r"OfflineModeIsEnabled|Couldn't reach|ConnectionError|Unsupported dataset name or local repo directory",
        "the tool wanted to download something, which it must not",
        "give what is missing with the checkpoint; calibration texts come from engine.calibration.data",
    ),
    (  # not every line that names it: libraries also warn that it has no effect
        r"(?:contains custom code|requires you to execute|[Pp]lease pass the argument|set the option)[^\n]*(?:\n[^\n]*){0,3}?"
        r"trust_remote_code",
        "the checkpoint wants to run its own code",
        "if you trust it, set source.trust_remote_code in the recipe",
    ),
    (
        r"unrecognized arguments: (?P<what>.+)|argument (?P<which>--?\S+): invalid choice.*",
        "the tool does not take {what}{which}",
        "leave it out of engine.options; docs/tensorrt_llm.md says what each release takes",
    ),
    (
        r"SafetensorError|MetadataIncompleteBuffer|InvalidHeader|HeaderTooLarge",
        "weights cannot be read",
        "check the checkpoint at its source; `enginepress run --force` downloads and converts again",
    ),
    (
        r"(?:ModuleNotFoundError|ImportError): (?P<what>.+)",
        "a package is missing or does not fit ({what})",
        "take NVIDIA's image as it is: its packages belong together",
    ),
)


def tool_failure(tool: str, status: int, log: Path) -> BuildError:
    """The error for a run of `tool` that ended with a status other than 0."""
    what, fix = explain(last_lines(log, 400), status)
    return BuildError(f"{tool} failed: {what}\n{last_lines(log)}", where=str(log), fix=fix)


def explain(text: str, status: int) -> tuple[str, str]:
    """What went wrong, and what to do, from a tool's last lines and its exit status."""
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        # Nothing that it printed before can be the reason: the kernel gives no time to say one.
        return "it was killed, most likely because the machine's memory ran out", _LESS_HOST_MEMORY
    for pattern, cause, advice in _CAUSES:
        if found := re.search(pattern, text):
            details = {key: (value or "").strip() for key, value in found.groupdict().items()}
            return re.sub(r" \(\)", "", cause.format(**details)), advice
    if status in (-signal.SIGBUS, 128 + signal.SIGBUS):
        return "it was ended by SIGBUS, most likely because its shared memory (/dev/shm) is too small", _MORE_SHARED_MEMORY
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}", "read the log"
    return f"exit status {status}", "read the log"
