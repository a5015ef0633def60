"""One training in memory: data, model, first weights, loop, trace. Writes no file but the data set's."""
