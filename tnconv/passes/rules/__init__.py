"""The rewiring rules, one topic a file. All of them keep the value exactly, for every size that their guards admit."""
