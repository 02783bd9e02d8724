"""Functions for every size: sizes that are left open, plans that serve many, calls that read sizes off tensors."""
