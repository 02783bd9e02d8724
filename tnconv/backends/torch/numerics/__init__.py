"""What generated source calls: tensors in, tensors out; no plans, no kernels, no prices."""
