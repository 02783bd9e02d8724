"""The rewiring rules, one topic a file. All of them keep the value exactly, wherever their guards admit them."""
