"""docs/operations.md: it is what the tables say, and what it says is so."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tnconv
from docs.pages import operations_page as page
from tnconv import ConvSpec, ConvTransposeSpec, PoolSpec, ops, spec_from_module
from tnconv.errors import OperationError, PlanError, SpecError, TnconvError

FILE = Path(__file__).parent.parent.parent / "docs" / "operations.md"
TEXT = FILE.read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The cells of the table whose header starts so."""
    lines = TEXT[TEXT.index(f"| {header}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def test_the_page_is_written_by_its_generator(tmp_path: Path) -> None:
    assert page.page(TEXT) == TEXT, "docs/operations.md is not what the tables say; run `make pages`"
    file = tmp_path / "page.md"
    file.write_text(TEXT.replace("S_A/(N T)", "S_A/2").replace("`gradient_norm`", "`norm`"), encoding="utf-8")
    page.write(str(file), page.page)
    assert file.read_text(encoding="utf-8") == TEXT
    with pytest.raises(ValueError, match="no place for 'samples'"):
        page.page(TEXT.replace("<!-- /samples -->", ""))


def test_lines_of_prose_are_short() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 120 and line[:3] not in ("| `", "- `")] == []


# -- operations --------------------------------------------------------------------------------------


def test_every_operation_is_in_the_table() -> None:
    rows = table("name")
    assert [name for row in rows for name in names(row[0])] == sorted(
        ops.available(), key=[n for o in ops.list() for n in (o.name, *ops.aliases(o.name))].index
    )
    assert "`kfac_expand`, `kfc`" in TEXT
    for row, operation in zip(rows, ops.list(), strict=True):
        assert row[1].replace("\\|", "|") == f"`{operation.formula}`"
        assert row[5] == operation.reference


def plain(axes: str) -> list[list[str]]:
    """`n (g d) o1 n_2 dq` as [[n], [g, d], [o], [n], [d]]: copies, bases and the number of the dimension left out."""
    axes = re.sub(r"[\d']|_\d+|(?<=[cd])q", "", axes)
    return [re.findall(r"\w", group) for group in re.findall(r"\([^)]*\)|\w", axes)]


@pytest.mark.parametrize("row", table("name"), ids=lambda row: names(row[0])[0])
def test_arguments_axes_and_options_are_those_of_a_layer(row: list[str]) -> None:
    name = names(row[0])[0]
    spec = ConvSpec(4, 6, 2, 5, groups=2, bias=True, batch_size=2)
    function = tnconv.compile(spec, name, passes="none")
    assert names(row[2]) == list(function.arguments)
    assert plain(row[3]) == plain(" ".join(map(str, function.network.output)))
    listed = set(names(row[4]))
    given: dict[str, dict[str, Any]] = {
        'bias="joint"': {"bias": "joint"},
        'groups="average"': {"groups": "average"},
        "convention=": {"convention": "sum"},
    }
    assert listed <= set(given)
    for text, options in given.items():
        if text in listed:
            tnconv.compile(spec, name, **options)
        else:
            with pytest.raises(OperationError, match=r"leave (it|the convention) out"):
                tnconv.compile(spec, name, **options)


# The promise, written out: what each package multiplies a raw sum with.
CONVENTIONS = """\
| `convention=` | `kfac_expand` | `kfac_reduce` | `kfac_grad_expand` | `kfac_grad_reduce` | `ekfac_eigenvalues` |
|---|---|---|---|---|---|
| `kfac` (default) | `S_A/(N T)` | `R_A/(N T²)` | `S_G/N` | `R_G/N` | `Λ/N` |
| `kfc` | `S_A/N` | – | `S_G/(N T)` | – | `Λ/N` |
| `einconv` | `S_A/N` | `R_A/(N T²)` | – | – | – |
| `backpack` | `S_A/N` | – | – | `R_G/N` | – |
| `kfac_jax`, `ekfac` | `S_A/(N T)` | – | `S_G/(N T)` | – | `Λ/(N T)` |
| `sum` | `S_A` | `R_A` | `S_G` | `R_G` | `Λ` |
"""


def test_the_table_of_conventions() -> None:
    assert f"\n\n{CONVENTIONS}\n" in TEXT


@pytest.mark.parametrize("row", table("`convention=`"), ids=lambda row: names(row[0])[0])
def test_a_dash_raises(row: list[str]) -> None:
    spec = ConvSpec(4, 6, 2, 5)
    for name, cell in zip([o.name for o in ops.list() if o.factor], row[1:], strict=True):
        for convention in names(row[0]):
            if cell == page.NONE:
                with pytest.raises(OperationError, match=f"{convention!r} does not define the scale"):
                    tnconv.compile(spec, name, convention=convention)
            else:
                tnconv.compile(spec, name, convention=convention)


# -- layers ------------------------------------------------------------------------------------------


def test_layers_have_the_operations_that_the_page_says() -> None:
    lists = re.findall(r"^- (`\w+Spec`.*): (.*)\.$", TEXT, re.M)
    having = {name: layers.split(", ") for layers, found in lists for name in names(found)}
    assert list(having) != [] and set(having) == {o.name for o in ops.list()}
    refused = 0
    for spec, row in zip(page.LAYERS, table("layer"), strict=True):
        fixed = replace(spec, batch_size=2)  # type: ignore[type-var]
        for name, layers in having.items():
            if row[0] in layers:
                tnconv.compile(fixed, name, passes="none", planner="left-to-right")
                continue
            refused += 1
            with pytest.raises((OperationError, SpecError), match=r"needs a layer|has no bias"):
                tnconv.compile(fixed, name)
    assert refused == 2 * 21  # of pooling and of unfolding


def test_layers_have_the_axes_that_the_page_says() -> None:
    rows = table("layer")
    assert rows[1] == [
        "`ConvTransposeSpec`",
        "`nn.ConvTranspose1d`, `nn.ConvTranspose2d`, `nn.ConvTranspose3d`",
        "`[n, (g c), i1]`",
        "`[(g c), d, k1]`",
        "`[n, (g d), o1]`",
    ]
    assert [row[3] for row in rows[2:]] == ["`[(g d), c]`", "`[(g d), c]`", page.NONE, page.NONE]
    assert {name for row in rows for name in names(row[0])} == {
        n for n in tnconv.__all__ if n.endswith("Spec")
    }


# -- what raises -------------------------------------------------------------------------------------


class Doubled(nn.Conv1d):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


RAISES: list[tuple[str, type[TnconvError], Callable[[], object], str]] = [
    ("A name that is not known", OperationError, lambda: tnconv.compile(ConvSpec(1, 1, 1, 2), "jam"), "'jam' is not known"),
    ("weight_vjp", OperationError, lambda: tnconv.compile(PoolSpec(1, 2, (4,)), "weight_vjp"), "needs a layer with a weight"),
    ("Circular padding of more", SpecError, lambda: ConvSpec(1, 1, 1, 2, padding=3, padding_mode="circular"), "more than once"),
    ("reflecting padding of as many", SpecError, lambda: ConvSpec(1, 1, 1, 2, padding=2, padding_mode="reflect"), "beyond the input"),
    ("another padding mode", SpecError, lambda: ConvSpec(1, 1, 1, 2, padding=1, padding_mode="jam"), "padding_mode 'jam'"),
    ("A kernel that is larger", SpecError, lambda: ConvSpec(1, 1, 5, 2, padding=1), "5 cells .* but the padded input has 4"),
    ("an `output_padding`", SpecError, lambda: ConvTransposeSpec(1, 1, 2, 3, output_padding=1), "output_padding 1 .* not below"),
    ("ceil_mode=True", SpecError, lambda: spec_from_module(nn.AvgPool1d(2, ceil_mode=True), 5), "ceil_mode=True adds windows that reach beyond"),
    (
        "count_include_pad=False",
        SpecError,
        lambda: spec_from_module(nn.AvgPool1d(3, padding=1, count_include_pad=False), 5),
        "count_include_pad=False and padding",
    ),
    ("a `forward` of its own", SpecError, lambda: spec_from_module(Doubled(1, 1, 1), 5), "computes something else"),
    ("a lazy one", SpecError, lambda: spec_from_module(nn.LazyConv1d(1, 1), 5), "does not know its weight's shape"),
    ("one of another type", SpecError, lambda: spec_from_module(nn.ReLU(), 5), "ReLU is not represented|not a layer"),
    (
        "A `memory_limit=`",
        PlanError,
        lambda: tnconv.compile(ConvSpec(8, 8, 3, (9, 9)), "gradient_norm", memory_limit="128B"),
        "needs at least",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("phrase", "error", "call", "message"), RAISES, ids=[phrase for phrase, *_ in RAISES]
)
def test_what_the_page_says_raises(
    phrase: str, error: type[TnconvError], call: Callable[[], object], message: str
) -> None:
    assert phrase in TEXT[TEXT.index("## What raises") :]
    with pytest.raises(error, match=message):
        call()


def test_every_bullet_of_what_raises_is_tested() -> None:
    bullets = TEXT[TEXT.index("## What raises") :].split("\n- ")[1:]
    for bullet in bullets:
        assert any(phrase in bullet for phrase, *_ in RAISES), bullet
