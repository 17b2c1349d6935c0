"""Backends: what runs segments, by PyTorch, ONNX Runtime, OpenVINO or from exported files."""
