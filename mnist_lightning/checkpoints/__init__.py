"""What runs leave: checkpoints, read without trust; several of them as one; and which data they are of."""
