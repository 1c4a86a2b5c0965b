"""A run: its command line, what is kept of it, how it is resumed, what TensorBoard shows of it."""
