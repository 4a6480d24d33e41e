"""Stand-ins for Triton backends that need a GPU. Placed under their names, they serve the configs that the real ones would."""
