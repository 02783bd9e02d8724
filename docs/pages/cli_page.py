"""The commands of docs/reference/cli.md, which `make pages` writes anew from the program itself."""

import sys
from typing import Any

from typer.main import get_command

from docs.pages.page_text import NONE, filled, table, write
from tnconv.cli import app


def page(text: str) -> str:
    """The Markdown of docs/reference/cli.md with its commands written anew."""
    group: Any = get_command(app)
    return filled(text, commands="\n\n".join(_command(name, each) for name, each in group.commands.items()))


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(
        [f"tnconv {name}", *(each.metavar or each.name.upper() for each in arguments), "[OPTIONS]"]
    )
    rows = [
        *((f"`{each.metavar}`", each.help, NONE) for each in arguments),
        *((f"`{', '.join(each.opts)}`", each.help, _default(each)) for each in options),
    ]
    return (
        f"### {name}\n\n{command.help}\n\n`{usage}`\n\n{table(('option', 'what it means', 'default'), rows)}\n\n"
        f"{command.epilog}"
    )


def _default(option: Any) -> str:
    if option.is_flag or option.multiple or option.default is None:
        return NONE
    return f"`{option.default}`"


if __name__ == "__main__":
    write(sys.argv[1], page)
