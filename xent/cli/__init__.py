"""What a person types and sees: configuration, resuming, sweeps, progress, and every refusal in one line."""
