"""All that lies on disk: dictionaries, their annotations, labels, origins; checkpoints; the hub."""
