"""Cross entropy, written from scratch: pure tensor functions that import nothing else of xent."""
