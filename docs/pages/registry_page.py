"""The tables of docs/reference/registry.md, which `make pages` writes anew.

Names come from the tables of built-in passes, kernels, backends and viewers, what they do from docstrings.
Plug-ins that happen to be installed are left out, so that the page is the same everywhere.
"""

import sys
from collections.abc import Iterable

from docs.pages.page_text import NONE, code, filled, table, write
from tnconv import passes, plugins
from tnconv.cli.lists import pass_options, rules
from tnconv.inspect.docstrings import first_line
from tnconv.passes import Pass, Rule


def page(text: str) -> str:
    """The Markdown of docs/reference/registry.md with its tables and rules written anew."""
    kinds = {name: passes.get(name) for name in plugins.BUILTINS[plugins.PASSES]}
    return filled(
        text,
        deriving=_passes({n: k for n, k in kinds.items() if not k.preserves_value}),
        rewriting=_passes({n: k for n, k in kinds.items() if k.preserves_value}),
        default=f"```text {{.wrap}}\n{passes.DEFAULT}\n```",
        rules="\n".join(_rule(name, each) for name, kind in kinds.items() for each in rules(kind)).rstrip(),
        kernels=_kernels(),
        backends=_listed("backend", plugins.BACKENDS),
        viewers=_listed("viewer", plugins.VIEWERS),
    )


def _passes(kinds: dict[str, type[Pass]]) -> str:
    rows = ((code([name]), first_line(kind), _options(kind)) for name, kind in kinds.items())
    return table(("pass", "what it does", "options"), rows)


def _options(kind: type[Pass]) -> str:
    shown = (
        f"`{name}`{'' if default is None else f' (`{default}`)'}: {means}"
        for name, default, means in pass_options(kind)
    )
    return "<br>".join(shown) or NONE


def _rule(name: str, each: Rule) -> str:
    return (
        f"### {each.name}\n\nOf the pass `{name}`. {each.sentence}\n\n"
        f"```text\n{each.before.strip()}\n```\n\nbecomes\n\n```text\n{each.after.strip()}\n```\n"
    )


def _kernels() -> str:
    kinds = ((name, plugins.get(plugins.KERNELS, name)) for name in plugins.BUILTINS[plugins.KERNELS])
    rows = ((code([name]), kind.name, kind.accuracy, first_line(kind)) for name, kind in kinds)
    return table(("entry point", "kernel", "accuracy", "what it does"), rows)


def _listed(what: str, group: str) -> str:
    rows: Iterable[tuple[str, str]] = (
        (code([name]), first_line(plugins.get(group, name))) for name in plugins.BUILTINS[group]
    )
    return table((what, "what it does"), rows)


if __name__ == "__main__":
    write(sys.argv[1], page)
