"""Names under which tools see what they read and write.

Tools run in a scratch folder of their own, in which links have these names. So the command lines are the same wherever the
workspace lies, the engine records no path of this machine, and no tool is misled by a path: quantize.py loads a checkpoint
as another family if "mpt" or "vila" occurs anywhere in its path, and a folder of texts as a news corpus if "cnn_dailymail"
does (tensorrt_llm/quantization/quantize_by_modelopt.py: `get_hf_config`, `get_model`, `get_calib_dataloader`).
"""

CHECKPOINT = "checkpoint"
CALIBRATION = "calibration"
CONVERTED = "converted"
ENGINE = "engine"
TIMINGS_READ = "timings-read.cache"
TIMINGS_WRITTEN = "timings-written.cache"

SOURCE_CONFIG = "source_config.json"
"""The checkpoint's own config.json, kept beside the converted one: the build is planned from it, as `plan` does."""
