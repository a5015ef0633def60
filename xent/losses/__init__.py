"""Cross entropy: the article's, from scratch, fused, and wrong on purpose. Imports torch and nothing else."""
