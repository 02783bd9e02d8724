"""The rewiring rules, one topic a file. All keep the value exactly, wherever their guards admit them."""
