"""The video-action diffusion transformer: layers, attention, KV cache, guidance."""
