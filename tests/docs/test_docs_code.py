"""The code of README.md and of every page of docs/ runs, prints what the page says, and draws the pictures that it shows."""

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import tnconv
from benchmarks import page as benchmarks
from benchmarks import prediction_page
from tests.docs import docs_code
from tests.docs.docs_code import DOCS, labels, matches, missing, run_page, updated
from tnconv import cli, plugins
from tnconv.backends.torch import profile

PAGES = sorted(DOCS.rglob("*.md"))
README = DOCS.parent / "README.md"
GENERATED = {"operations.md", "benchmarks.md", "cli.md", "registry.md", "prediction.md"}
ELSEWHERE = {"distributed.md"}  # in two processes, by tests/distributed/test_shard.py
PICTURES = DOCS / "pictures"


@pytest.fixture(autouse=True)
def shipped_rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Kernels are chosen as on a machine where nobody calibrated; what a page registers is taken back."""
    monkeypatch.setenv("TNCONV_CACHE", str(tmp_path / "cache"))
    profile.profile_of.cache_clear()
    before = {group: set(names) for group, names in plugins._registered.items()}
    torch.manual_seed(0)
    with docs_code.folder(tmp_path):
        yield
    for group, names in plugins._registered.items():
        for name in set(names) - before[group]:
            plugins.unregister(group, name)
    profile.profile_of.cache_clear()


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda p: str(p.relative_to(DOCS.parent)))
def test_code(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if needed := missing(path):
        pytest.skip(f"{path.name} needs {' and '.join(needed)}: install the extra that it names")
    scope: dict[str, Any] = {"__name__": "__docs__"}
    ran = run_page(path, scope)
    pictures = sorted(tmp_path.glob("*.svg"))
    if request.config.getoption("--update-golden"):
        path.write_text(updated(path.read_text(encoding="utf-8"), ran), encoding="utf-8")
        for picture in pictures:  # `make pages` draws those of the site, which follow its theme
            if shown(picture.name).parent == PICTURES:
                shutil.copy(picture, shown(picture.name))
    for each in ran:
        if each.quoted is not None and not request.config.getoption("--update-golden"):
            text = each.quoted.text
            where = f"{path.relative_to(DOCS.parent)}:{each.quoted.line}; `make pages` writes what the code prints"
            assert text == each.output or matches(text, each.output), f"{where}:\n{each.output}"
    for picture in pictures:
        old, new = (p.read_text(encoding="utf-8") for p in (shown(picture.name), picture))
        assert labels(old) == labels(new), f"{picture.name} is not what the page draws; run `make pages`"
    for cell in right_cells(path):
        eval(compile(cell, str(path), "eval"), scope)


def test_every_output_that_is_quoted_is_compared() -> None:
    """Also every message of an error: a text stands right behind the code that prints or raises it."""
    for path in [README, *(p for p in PAGES if p.name not in GENERATED | ELSEWHERE)]:
        found = docs_code.blocks(path.read_text(encoding="utf-8"))
        for before, block in zip([None, *found], found, strict=False):
            checked = before is not None and before.language == "python" and block.follows
            assert block.language != "text" or checked, f"{path.name}:{block.line} is behind no code"
        quoted = "".join(block.text for block in found if block.language == "text")
        for message in re.findall(r"tnconv\.errors\.\w+: .*", path.read_text(encoding="utf-8")):
            assert message in quoted, f"{path.name} says {message!r} outside of a text that is compared"


def shown(name: str) -> Path:
    """The picture of that name in docs/: of examples/pictures.py, or of a page."""
    return DOCS / name if (DOCS / name).exists() else PICTURES / name


def right_cells(path: Path) -> list[str]:
    """What the last column of the tables of docs/from says to write: expressions that run behind the page's code."""
    if path.parent.name != "from":
        return []
    rows = re.findall(r"^\|.*\| ([^|]*) \|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [code for row in rows for code in re.findall(r"`([^`]*)`", row)]
    return [
        cell
        for cell in cells
        if re.match(r"(tnconv|fn)\.\w+(\.\w+)*\(", cell) and ast.parse(cell, mode="eval")
    ]


PEERS = """
import torch
from einops import einsum, rearrange, reduce
from einconv import functionals, modules
from einconv.expressions import (
    convNd_forward, convNd_input_vjp, convNd_kfac_reduce, convNd_kfc, convNd_unfold, convNd_weight_vjp
)
from opt_einsum import contract, contract_expression, contract_path
"""


@pytest.mark.parametrize("name", ["einconv", "einops", "opt_einsum"])
def test_both_sides_of_a_table_compute_the_same(name: str) -> None:
    pytest.importorskip("einconv")
    path = DOCS / "from" / f"{name}.md"
    here: dict[str, Any] = {"__name__": "__docs__"}
    run_page(path, here)
    there = dict(here)
    exec(PEERS, there)
    rows = re.findall(r"^\| `([^`]*)` \| `(tnconv[^`]*)` \|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 1
    for left, right in rows:
        theirs, ours = eval(left, there), eval(right, here)
        if isinstance(theirs, tuple):
            theirs = torch.einsum(theirs[0], *theirs[1]).reshape(theirs[2])
        if isinstance(ours, torch.Tensor):
            torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-4)


LAYER = "in_channels = 4\nout_channels = 6\nkernel_size = 3\ninput_size = [9, 9]\nstride = 2\npadding = 1\n"


def test_commands_run(tmp_path: Path) -> None:
    (tmp_path / "layer.toml").write_text(LAYER)
    for name in ("before.tn", "after.tn"):
        (tmp_path / name).write_text(str(tnconv.load_spec(tmp_path / "layer.toml").network()))
    lines = [
        line
        for path in [README, *PAGES]
        for block in docs_code.blocks(path.read_text(encoding="utf-8"))
        if block.language == "sh"
        for line in block.text.splitlines()
        if line.startswith("tnconv ")
    ]
    assert lines
    for line in lines:
        result = CliRunner().invoke(cli.app, shlex.split(line, comments=True)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_pages_are_short_and_listed() -> None:
    nav = yaml.load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)["nav"]
    assert sorted(_files(nav)) == sorted(str(p.relative_to(DOCS)) for p in PAGES)
    quoted = re.compile(r"```text[^\n]*\n.*?```", re.DOTALL)
    texts = {p.name: quoted.sub("", p.read_text(encoding="utf-8")) for p in PAGES if p.name not in GENERATED}
    assert [name for name, text in texts.items() if len(text.splitlines()) > 200] == []


def test_every_picture_is_shown() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in PAGES)
    for picture in DOCS.rglob("*.svg"):
        assert re.search(rf"[(/]{picture.name}[)\"]", text), picture
    for picture in PICTURES.glob("*.svg"):
        assert f'draw("{picture.name}"' in text, picture


def test_the_page_of_benchmarks_is_written_by_its_generator(tmp_path: Path) -> None:
    benchmarks.main([str(tmp_path / "page.md")])
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == (tmp_path / "page.md").read_text(
        encoding="utf-8"
    ), "docs/benchmarks.md is not what benchmarks/results.json says; run `make pages`"


def test_the_page_of_predictions_is_written_by_its_generator(tmp_path: Path) -> None:
    prediction_page.main([str(tmp_path / "page.md")])
    assert (DOCS / "concepts" / "prediction.md").read_text(encoding="utf-8") == (
        tmp_path / "page.md"
    ).read_text(encoding="utf-8"), (
        "docs/concepts/prediction.md is not what benchmarks/prediction.json says; run `make pages`"
    )


def test_links_of_the_readme_are_in_the_source_distribution() -> None:
    """They are relative: an index of packages has no page that they could lead to."""
    taken = (DOCS.parent / "MANIFEST.in").read_text(encoding="utf-8").split()
    links = set(re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")))
    assert "docs/tour.md" in links
    for link in links:
        place = Path(link)
        assert (DOCS.parent / place).exists(), link
        assert {place.parts[0], str(place.parent / f"*{place.suffix}")} & set(taken), link


def test_public_names_are_in_the_reference() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^::: tnconv\.([\w.]+)$", text, re.MULTILINE))
    assert set(tnconv.__all__) - named == set()


def test_the_guide_shows_the_file_of_the_template() -> None:
    page, file = DOCS / "plugins.md", DOCS.parent / "examples" / "plugin" / "pyproject.toml"
    (shown,) = (b for b in docs_code.blocks(page.read_text(encoding="utf-8")) if b.language == "toml")
    lines = iter(file.read_text(encoding="utf-8").splitlines())
    assert [line for line in shown.text.splitlines() if line and line not in lines] == []  # in this order


def test_outputs_are_compared_line_by_line() -> None:
    assert matches("a\n…\nd\n", "a\nb\nc\nd\n") and matches("a\n…\nd\n", "a\nd\n")
    assert matches("a  # b\n", "a      # b\n") and not matches("a  # b\n", "a # b\n")
    assert not matches("a\n…\nd\n", "a\nb\nc\n") and not matches("a\n", "a\nb\n")
    page = "x\n\n```python\nprint('a\\nb\\nc')\n```\n\n```text\na\n…\n```\n"
    (block, quoted) = docs_code.blocks(page)
    assert quoted.follows and quoted.text == "a\n…\n"
    ran = [docs_code.Ran(block, "a\nb\n", quoted)]
    assert updated(page, ran) == page
    changed = [docs_code.Ran(block, "b\nc\n", quoted)]
    assert "```text\nb\nc\n```" in updated(page, changed)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def _files(nav: Any) -> Iterator[str]:
    for item in nav if isinstance(nav, list) else [nav]:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from _files(value)
