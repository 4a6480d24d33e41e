"""What all tests share: one thread for each native library, so that two cores are not fought over."""

from __future__ import annotations

import os

from hypothesis import settings

# Two busy cores make any deadline a matter of luck; what is measured is measured in benchmarks/.
settings.register_profile("enginepress", deadline=None)
settings.load_profile("enginepress")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
