"""A wing: a checkpoint as ONNX, TorchScript or pt2, and as a page to draw on. It can be deleted."""
