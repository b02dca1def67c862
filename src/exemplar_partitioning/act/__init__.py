"""Acting on regions while a model runs: steer, ablate, bake, localise."""
