"""`python -m tnconv.cli` is `tnconv`."""

from tnconv.cli import app

app()
