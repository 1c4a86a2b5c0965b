"""A wing: answers to pictures; a checkpoint as ONNX, TorchScript or pt2; a page to draw on. It can be deleted."""
