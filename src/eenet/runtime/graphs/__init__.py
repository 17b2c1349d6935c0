"""A network as an ONNX graph: whole, cut into segments, and nested so that it stops by itself."""
