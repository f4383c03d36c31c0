"""Training and fine-tuning of checkpoints."""
