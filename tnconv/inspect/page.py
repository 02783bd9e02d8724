"""docs/reference/registry.md, written from the registries: `python -m tnconv.inspect.page FILE`, or `make pages`.

Names come from the tables of built-in passes, kernels, backends and viewers, what they do from docstrings.
Plug-ins that happen to be installed are left out, so that the page is the same everywhere.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tnconv import passes, plugins
from tnconv.inspect.docstrings import arguments, first_line
from tnconv.ops.page import NONE, code, table
from tnconv.passes import Pass, Rule
from tnconv.passes.text import format_value

PLANNERS = {
    "auto": "`dp` for up to 12 tensors, `cotengra` for more.",
    "dp": "The best of all trees, by a programme over the subsets of tensors.",
    "cotengra": "Proposals of cotengra, which is blind to relations, priced exactly and improved piece by piece.",
    "left-to-right": "The tensors one after the other, in the order of the network: quick, for a look.",
}


def record(name: str, kind: type[Pass]) -> dict[str, Any]:
    """A pass as plain values: name, options, what it does, its rules.

    Args:
        name: in the registry.
        kind: the class.

    Returns:
        Strings and dicts; of each option its default as text, None where it must be given, and its meaning.
    """
    return {
        "name": name,
        "options": {option: {"default": default, "means": means} for option, default, means in options(kind)},
        "does": first_line(kind),
        "preserves_value": kind.preserves_value,
        "rules": {each.name: each.sentence for each in rules(kind)},
    }


def options(kind: Any) -> list[tuple[str, str | None, str]]:
    """The options of a pass: name, default as it is written in a pipeline (None where there is none), and meaning."""
    meanings = arguments(kind)
    return [
        (
            field.name,
            None if field.default is MISSING else format_value(field.default),
            meanings.get(field.name, ""),
        )
        for field in fields(kind)
    ]


def rules(kind: type[Pass]) -> tuple[Rule, ...]:
    """The rules of a pass; none for one that is no rewriting."""
    return getattr(kind, "rules", ())


def page() -> str:
    """The Markdown of docs/reference/registry.md."""
    kinds = {name: passes.get(name) for name in plugins.BUILTINS[plugins.PASSES]}
    return _PAGE.format(
        deriving=_passes({n: k for n, k in kinds.items() if not k.preserves_value}),
        rewriting=_passes({n: k for n, k in kinds.items() if k.preserves_value}),
        default=passes.DEFAULT,
        rules="\n".join(_rule(name, each) for name, kind in kinds.items() for each in rules(kind)),
        kernels=_kernels(),
        planners=table(("planner", "what it takes"), ((code([n]), text) for n, text in PLANNERS.items())),
        backends=_listed("backend", plugins.BACKENDS),
        viewers=_listed("viewer", plugins.VIEWERS),
    )


def main(given: Sequence[str]) -> None:
    """Write the page to the path given, or print it."""
    if given:
        Path(given[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


def _passes(kinds: dict[str, type[Pass]]) -> str:
    rows = ((code([name]), first_line(kind), _options(kind)) for name, kind in kinds.items())
    return table(("pass", "what it does", "options"), rows)


def _options(kind: type[Pass]) -> str:
    shown = (
        f"`{name}`{'' if default is None else f' (`{default}`)'}: {means}"
        for name, default, means in options(kind)
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


_PAGE = """\
<!-- Written by `make pages` from the registries and docstrings of the package; change those. -->

# Passes, rules, kernels

What tnconv has built in, each with the first sentence of its docstring. `tnconv passes` lists those of installed
plug-ins too, `tnconv passes --json` for programs. [Operations](../operations.md) has the operations.

## Passes that derive an operation

They change the value. `tnconv.compile` puts them in front of the others; `passes=` takes them too, as
`"tie{{left=n, right=n_2}} | default"`. A default is in parentheses; an option without one must be given.

{deriving}

## Passes that rewrite

They keep the value, and apply their rules until none fires. `passes="default"` is

```text {{.wrap}}
{default}
```

{rewriting}

## Rules

Each with an example, which a test executes. [Write a pass](../howto/pass.md) has one more.

{rules}
## Kernels

Of the kernels that accept a step, the one with the least predicted time is taken, of equal ones the first here.
[How kernels compete](../concepts/kernels.md) says more, and what a kernel of which accuracy promises.

{kernels}

## Planners

What `planner=` takes, besides names of the entry-point group `tnconv.planners`. A plug-in is a callable that takes a
`tnconv.planner.Problem` and returns nested pairs of tensor positions, such as `((0, 2), 1)`.

{planners}

## Backends

What `backend=` takes, besides names of the entry-point group `tnconv.backends`.

{backends}

## Viewers

What shows a network in a notebook, of the entry-point group `tnconv.viewers`.

{viewers}
"""


if __name__ == "__main__":
    main(sys.argv[1:])
