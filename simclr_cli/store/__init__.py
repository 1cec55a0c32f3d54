"""Files of a run: config, history, checkpoints, models, vectors, index and moves of images."""
