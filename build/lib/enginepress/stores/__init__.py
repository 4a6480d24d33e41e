"""Stores: where releases live. They know folders, numbers and manifests, and nothing of Triton.

`open_store` (in `enginepress.stores.open`) gives the store that a recipe names.
"""
