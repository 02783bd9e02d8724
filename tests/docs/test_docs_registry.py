"""docs/reference/registry.md: it is what the registries and docstrings say, and all of it."""

import inspect
import re
from pathlib import Path

import pytest

import tnconv
from docs.pages import registry_page as page
from tnconv import passes, plugins
from tnconv.errors import PlanError
from tnconv.inspect.docstrings import arguments, first_line

FILE = Path(__file__).parent.parent.parent / "docs" / "reference" / "registry.md"
TEXT = FILE.read_text(encoding="utf-8")
KINDS = {name: passes.get(name) for name in plugins.BUILTINS[plugins.PASSES]}


def section(title: str) -> str:
    """The text below a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def names(text: str) -> list[str]:
    """What the first column of a table names."""
    return re.findall(r"^\| `([^`]*)` \|", text, re.MULTILINE)


def test_the_page_is_written_by_its_generator() -> None:
    assert page.page(TEXT) == TEXT, (
        "docs/reference/registry.md is not what the registries say; run `make pages`"
    )
    assert page.page(TEXT.replace("gather_scatter", "gather")) == TEXT


def test_every_pass_is_listed_with_its_options() -> None:
    deriving, rewriting = section("Passes that derive an operation"), section("Passes that rewrite")
    assert names(deriving) == [name for name, kind in KINDS.items() if not kind.preserves_value]
    assert names(rewriting) == [name for name, kind in KINDS.items() if kind.preserves_value]
    assert passes.DEFAULT in rewriting
    for name, kind in KINDS.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", TEXT, re.MULTILINE)
        assert first_line(kind) in row
        for option, default, means in page.pass_options(kind):
            shown = f"`{option}`{'' if default is None else f' (`{default}`)'}: {means}"
            assert means.endswith("."), f"{kind.__name__}: say in its docstring what {option} is"
            assert shown in row


@pytest.mark.parametrize("name", KINDS)
def test_a_default_is_written_as_a_pipeline_takes_it(name: str) -> None:
    given = {option: default for option, default, _ in page.pass_options(KINDS[name])}
    needed = {option: "x" for option, default in given.items() if default is None}
    needed = {option: _needed(KINDS[name], option) for option in needed}
    written = ", ".join(f"{option}={value}" for option, value in (given | needed).items())
    assert passes.parse_pass(f"{name}{{{written}}}" if written else name) == passes.parse_pass(
        f"{name}{{{', '.join(f'{o}={v}' for o, v in needed.items())}}}" if needed else name
    )


def _needed(kind: type, option: str) -> str:
    """A value of an option that has no default."""
    if option == "keep":
        return "1/2"
    hint = inspect.signature(kind).parameters[option].annotation
    return {"int": "1", int: "1", str: "x", "str": "x"}.get(hint, "[x]")


def test_every_rule_is_listed_with_its_example() -> None:
    every = [each for kind in KINDS.values() for each in page.rules(kind)]
    assert re.findall(r"^### (\w+)$", section("Rules"), re.MULTILINE) == [each.name for each in every]
    for each in every:
        assert (
            f"{each.sentence}\n\n```text\n{each.before}\n```\n\nbecomes\n\n```text\n{each.after}\n```" in TEXT
        )


def test_every_kernel_backend_and_viewer_is_listed() -> None:
    for title, group in (
        ("Kernels", plugins.KERNELS),
        ("Backends", plugins.BACKENDS),
        ("Viewers", plugins.VIEWERS),
    ):
        assert names(section(title)) == list(plugins.BUILTINS[group])
        for name in plugins.BUILTINS[group]:
            line = first_line(plugins.get(group, name))
            assert line.endswith(".") and line.replace("|", "\\|") in section(title)


def test_every_planner_is_listed() -> None:
    with pytest.raises(PlanError, match="there is no planner 'jam'; the planners are ") as found:
        tnconv.compile(tnconv.ConvSpec(1, 1, 1, 2), planner="jam")
    assert names(section("Planners")) == str(found.value).rpartition("are ")[2].split(", ")


def test_arguments_of_a_docstring() -> None:
    def example() -> None:
        """A sentence.

        Args:
            first: of two lines,
                the second is here.
            second: another: with a colon.

        Returns:
            third: this is none.
        """

    assert first_line(example) == "A sentence."
    assert arguments(example) == {
        "first": "of two lines, the second is here.",
        "second": "another: with a colon.",
    }
    example.__doc__ = None
    assert (first_line(example), arguments(example)) == ("", {})
