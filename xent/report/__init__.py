"""A judgement as plain data, made once, and shown: terminal, page, picture, TensorBoard."""
