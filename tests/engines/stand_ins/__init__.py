"""Stand-ins for NVIDIA's tools, which need a GPU and images of many gigabytes. They are not the tools.

Each takes exactly the command lines that a contract allows (`enginepress/engines/tensorrt_llm/contracts`), prints the `--help`
that argparse makes of it, asserts what the real tool asserts, and writes files of the true shape with tiny tensors.
"""
