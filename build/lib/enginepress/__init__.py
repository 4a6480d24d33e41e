"""enginepress: from an LLM checkpoint to a gated, published, registered Triton release.

The package itself imports nothing heavy: `import enginepress` costs what an empty module costs.
"""

__version__ = "0.1.0"
