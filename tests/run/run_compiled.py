"""Runs a compiled pipeline by kfp's local runner, as somebody would who has only the file: FILE ROOT PARAMETERS."""

from __future__ import annotations

import json
import sys
import warnings


def main() -> None:
    file, root, parameters = sys.argv[1:]
    warnings.simplefilter("ignore")
    from kfp import components, local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    components.load_component_from_file(file)(**json.loads(parameters))


if __name__ == "__main__":
    main()
