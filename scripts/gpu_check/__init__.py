"""The parts of `scripts/check_on_gpu.py`: machine, memory, conversion. Each gives back plain values for one JSON file."""
