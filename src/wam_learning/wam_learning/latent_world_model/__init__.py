"""A small latent world model of DreamerV3's kind, trained on demonstrations, for comparison."""
