"""Benchmarks: side by side in one process, medians, ratios."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "6"
)  # the profiler says on stderr that it starts; read by torch's import
