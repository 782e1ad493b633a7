"""ONNX graphs: read within limits, rewired, understood, and proved before they are served."""
