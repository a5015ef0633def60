"""One training, in memory and on disk: data, models, first weights, loop, checkpoint."""
