"""The image in which components run on a cluster. The local runner ignores it, but warns unless its name holds `python`."""

import os

from enginepress import __version__

IMAGE = os.environ.get("ENGINEPRESS_IMAGE", f"enginepress/enginepress-python:{__version__}")
