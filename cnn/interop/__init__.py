"""Networks out to ONNX, PyTorch, safetensors and C, and networks of ONNX and PyTorch in."""
