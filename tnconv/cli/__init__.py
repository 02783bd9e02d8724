"""The command line: compile a layer and look into it, draw it, compare networks, time, list what there is."""

from tnconv.cli import compile, lists, look, measure  # the commands register themselves
from tnconv.cli.common import app

__all__ = ["app", "compile", "lists", "look", "measure"]
