"""Programs of JAX: an optional extra, imported where somebody asks for it."""
