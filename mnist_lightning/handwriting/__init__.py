"""A wing: anyone's picture of a digit -> 28x28 pixels as MNIST's were made. It can be deleted."""
