"""The PyTorch backend: a kernel table, and the writer of readable source."""
