"""Pixels and text to the inputs of the transformer, and latents back to pixels."""
