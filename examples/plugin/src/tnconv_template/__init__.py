"""Two passes and a kernel for tnconv, found by the entry points in pyproject.toml."""
