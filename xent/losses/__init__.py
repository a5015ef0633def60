"""Cross entropy: as the article has it, from scratch, fused, and wrong on purpose. Imports torch and nothing else."""
