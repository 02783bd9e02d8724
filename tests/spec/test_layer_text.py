"""A layer as text is the layer of the same call in Python; what is no such call is an error at its character."""

import ast
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tnconv
from tnconv import ConvSpec, SpecError, spec_from_module
from tnconv.spec import layer_text, parse_layer

CALLS = [
    "Conv2d(4, 6, 3)",
    "Conv2d(4, 6, 3, stride=2, padding=1)",
    "Conv1d(4, 6, kernel_size=[3], padding='same', bias=False)",
    "Conv3d(4, 6, (1, 2, 3), 1, (0, 1, 1), groups=2, padding_mode='circular')",
    "ConvTranspose1d(4, 6, 3, stride=2, output_padding=1)",
    "ConvTranspose2d(4, 6, (3, 2), dilation=2)",
    "ConvTranspose3d(4, 6, 2, bias=False)",
    "Linear(4, 6)",
    "Linear(4, 6, bias=False)",
    "AvgPool1d(2)",
    "AvgPool2d(3, stride=2, padding=1)",
    "AvgPool3d(2, ceil_mode=True, divisor_override=5)",
    "Unfold(3, dilation=2)",
]


@pytest.mark.parametrize("text", CALLS)
def test_it_is_the_layer_of_the_module(text: str) -> None:
    module = eval(text, vars(nn))
    size = (
        None
        if isinstance(module, nn.Linear)
        else (11,) * int(re.search(r"\d|Unf", text)[0].replace("Unf", "2"))
    )  # type: ignore[index]
    expected = spec_from_module(module, size, batch_size=5)
    sized = text if size is None else f"{text[:-1]}, input_size={size})"
    for written in (sized, f" nn.{sized}\n", f"torch.nn.{sized}"):
        assert parse_layer(f"{written.rstrip()[:-1]}, batch_size=5)") == expected
    names = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
    if size is not None:
        opened = parse_layer(text, any_size=True)
        assert opened == spec_from_module(module, names[len(size)])
        with pytest.raises(SpecError, match="does not know its input's size; give input_size"):
            parse_layer(text)


def test_every_layer_that_is_represented_can_be_typed() -> None:
    typed = {text.split("(")[0] for text in CALLS}
    assert typed == {name for name in layer_text.CLASSES if not name.endswith("Spec")}


def test_specs_are_typed_with_their_symbols() -> None:
    for written in ("", "tnconv."):
        made = parse_layer(
            f"{written}ConvSpec('C', \"D\", 3, ('H', 'W'), padding=((0, 1), (1, 0)), groups='G')"
        )
        assert made == ConvSpec("C", "D", 3, ("H", "W"), padding=((0, 1), (1, 0)), groups="G")
    assert parse_layer("PoolSpec(3, (2, 2))", any_size=True) == tnconv.PoolSpec(3, (2, 2), ("H", "W"))
    assert parse_layer("LinearSpec(3, 4)", any_size=True) == tnconv.LinearSpec(3, 4)


@given(
    st.sampled_from(["Conv2d", "ConvTranspose2d"]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3),
    st.dictionaries(st.sampled_from(["stride", "padding", "dilation"]), st.integers(1, 3) | st.tuples(*[st.integers(1, 3)] * 2)),
    st.booleans(),
)  # fmt: skip
def test_whatever_the_numbers_are(
    name: str, c: int, d: int, k: int, options: dict[str, Any], bias: bool
) -> None:
    written = "".join(f", {key}={value}" for key, value in options.items())
    text = f"{name}({c}, {d}, {k}{written}, bias={bias}, input_size=(32, 33))"
    assert parse_layer(text) == spec_from_module(getattr(nn, name)(c, d, k, bias=bias, **options), (32, 33))


def test_parameters_take_no_memory() -> None:
    assert parse_layer("Conv2d(1000000, 10000000, 3, input_size=9)").in_channels == 1_000_000  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("Conv2d(64, 128, 3, strid=2)", "strid=", "no argument 'strid' (did you mean 'stride'?); it has in_channels, "),
        ("Conv2d(64, 128", "(64", "'(' was never closed; write a call such as Conv2d("),
        ("Cnv2d(64, 128, 3)", "Cnv2d", "'Cnv2d' is no layer (did you mean 'Conv2d'?); the layers are Conv1d, "),
        ("Conv2d(64, 128, 0)", "0)", "kernel_size is 0 but 0 is not at least 1; give an int"),
        ("Conv2d(64, 128)", ")", "Conv2d needs kernel_size; give an int"),
        ("Conv2d(64, 'C', 3)", "'C'", "out_channels is 'C', but Conv2d takes numbers; write a ConvSpec for symbols"),
        ("Conv2d(64, open('x'), 3)", "open", "\"open('x')\" is no literal; write a number"),
        ("Conv2d(64, 2**9, 3)", "2**", "'2**9' is no literal; write a number"),
        ("Conv2d(64, [1, x], 3)", "x]", "'x' is no literal; write a number"),
        ("Conv2d(64, 128, 3, **a)", "**a", "no argument '**'; it has"),
        ("Conv2d(64, 128, 3, *a)", "*a", "'*a' is no literal"),
        ("Conv2d(64, 128, 3, 2, stride=2)", "stride", "stride is 2 and 2; give it once"),
        ("Conv2d(1, 2, 3, 1, 0, 1, 1, True, 'zeros', 5)", "5", "there are 10 arguments, but Conv2d takes 9 by position"),
        ("Conv2d(64, 128, 9N)", "9N", "invalid decimal literal; write a call"),
        ("Linear(3, 4,\n bias=2)", "2)", "bias is 2: Expected `bool`, got `int`; give true or false"),
        ("Unfold('é', 2, é)", "'é'", "kernel_size is 'é': size name 'é' is not a name"),
        ("Unfold(3, é=1)", "é=1", "Unfold has no argument 'é'"),
        ("ConvSpec(3, 4, 'k', x)", "x)", "'x' is no literal"),
        ("x", "x", "it is no call; write a call such as"),
        ("a.b[3](4)", "a.b", "'a.b[3]' is no layer; the layers are"),
        ("Conv2d(\0)", "Conv", "source code string cannot contain null bytes; write a call"),
    ],
)  # fmt: skip
def test_an_error_names_the_character_and_the_value(text: str, place: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_layer(text)
    assert str(caught.value).startswith(f"layer {text!r}, character {text.index(place) + 1}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Conv2d(3, 4, 3, groups=2)", "groups 2 does not divide in_channels 3"),
        ("Conv2d(3, 4, 3, padding='sme')", "padding 'sme' is not a known name"),
        ("Conv3d(3, 4, (3, 3))", r"kernel_size \(3, 3\) has length 2 but the layer has 3"),
        (
            "Conv2d(3, 4, 3, input_size=(2, 2))",
            "the dilated kernel has 3 cells .* but the padded input has 2",
        ),
        (
            "AvgPool2d(3, 2, 1, count_include_pad=False)",
            "AvgPool2d with count_include_pad=False and padding 1 is not represented",
        ),
        ("Unfold(3, stride=(1, 2, 3))", r"stride \(1, 2, 3\) has length 3 but the layer has 2"),
        ("ConvSpec(3, 4, 3, 2)", "the dilated kernel has 3 cells"),
    ],
)
def test_fields_that_do_not_fit_together(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"layer .*: {message}"):
        parse_layer(text, any_size=True)


def test_long_and_deep_texts() -> None:
    with pytest.raises(SpecError, match="a layer of 3008 characters is given; write one of at most 2000"):
        parse_layer(f"Conv2d({'9' * 3000})")
    for text in (f"Conv2d({'[' * 900}", f"Conv2d({'-' * 1900}1)", f"Conv2d({'9' * 1900}, 3, 3)"):
        with pytest.raises(SpecError, match=r"layer .*character"):
            parse_layer(text)


@given(st.text(alphabet="Conv2d(,)[]'\"=-+*.0123 {}xNone\\:é#\n", max_size=40))
def test_no_text_is_evaluated_or_ends_in_another_error(text: str) -> None:
    try:
        parse_layer(f"Conv2d({text}")
    except SpecError:
        return
    called = ast.parse(f"Conv2d({text}".strip(), mode="eval").body
    assert isinstance(called, ast.Call) and all(
        isinstance(ast.literal_eval(each), object) for each in called.args
    )


def test_what_begins_as_a_call() -> None:
    assert all(map(layer_text.is_layer_text, ["Conv2d(3", " torch.nn.Conv2d (", "x()"]))
    assert not any(map(layer_text.is_layer_text, ["layer.toml", "a/b(3).toml", "(3)", "", "[red]a(", "3d("]))
