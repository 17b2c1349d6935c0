"""A network as an ONNX graph: kept beside the weights, read and run without torch."""
