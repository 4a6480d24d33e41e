"""What all tests share: one thread for each native library, so that two cores are not fought over."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Two busy cores make any deadline a matter of luck; what is measured is measured in benchmarks/.
settings.register_profile("enginepress", deadline=None)
settings.load_profile("enginepress")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# A shell that starts the tests in the background switches Ctrl-C off for them, and every process that a test starts would
# inherit that: one that a test interrupts would go on to its end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
