"""One training in memory: data, model, first weights, loop, trace. Reads no configuration and writes no files."""
