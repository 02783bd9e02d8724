"""`python -m tnconv` is `tnconv`."""

from tnconv.cli import app

if __name__ == "__main__":
    app(prog_name="tnconv")
