"""How a compilation is driven: its options."""
