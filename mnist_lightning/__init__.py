"""MNIST with PyTorch Lightning: raw IDX files in; a trained and tested digit classifier out."""
