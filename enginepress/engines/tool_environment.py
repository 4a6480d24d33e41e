"""The environment that a builder's tool runs in: offline, without our secrets, its caches in scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_HIDDEN = ("TOKEN", "SECRET", "PASSWORD", "PROXY", "ACCESS_KEY", "API_KEY", "CREDENTIAL")
"""Parts of names of environment variables that a tool does not get to see."""


def offline_environment(ours: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Our environment without secrets, with every Hugging Face library told to stay offline."""
    kept = {key: value for key, value in ours.items() if not any(part in key.upper() for part in _HIDDEN)}
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(scratch / "cache"),
        "HF_DATASETS_CACHE": str(scratch / "cache" / "datasets"),
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # argparse wraps its usage to this width, and `--help` is read.
        "COLUMNS": "200",
    }
