"""How a pass of the network is run: eager, compiled, CUDA graphs, TensorRT, quantized."""
