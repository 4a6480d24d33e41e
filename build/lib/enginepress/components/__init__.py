"""Kubeflow components, one file a step, thin: a typed signature, a docstring, one call into `enginepress.steps`.

Every component takes the recipe as one canonical JSON string with its digest, and every one but resolve the plan that
resolve returned. Weights stay in the workspace, which steps find by the environment variable ENGINEPRESS_WORKSPACE.
"""
