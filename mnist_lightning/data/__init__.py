"""The heart, first half: IDX files -> uint8 tensors -> a split -> batches, distorted, on the device."""
