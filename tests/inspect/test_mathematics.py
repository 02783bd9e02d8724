"""Labels that are mathematics: what is read, how it stands, what is refused."""

import pytest

from tnconv.errors import TnconvError
from tnconv.inspect.mathematics import mathematical, runs, unknown_command


def plain(tex: str) -> str:
    return "".join(run.text for run in runs(tex)).replace("\u2009", " ")


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("k_1'", "k1′"),
        ("k_{12}", "k12"),
        (r"\mathbf{X}", "X"),
        (r"\Pi^{(1)}", "Π(1)"),
        (r"\lambda + \alpha - 1", "λ + α − 1"),
        (r"\tilde{o}_1", "o\u03031"),
        (r"\mathrm{grad\_output}", "grad_output"),
        (r"\left\lfloor \frac{I_1 - 1}{2} \right\rfloor", "⌊ (I1 − 1)/2 ⌋"),
        (r"\frac{12}{N}", "12/N"),
        (r"{x}^*", "x∗"),
        (r"a \times b", "a × b"),
    ],
)
def test_mathematics_is_read(tex, text):
    assert plain(tex) == text
    assert unknown_command(tex) is None


@pytest.mark.parametrize(
    ("tex", "why"),
    [
        ("x^y^z", r"two superscripts in a row, as x\^y\^z; put one into braces, as x\^\{y\^z\}"),
        ("x ^ 2 ^ 3", "two superscripts"),
        ("x_y_z", "two subscripts in a row, as x_y_z"),
        ("x^2'", "two superscripts"),
        (r"x^\mathbf{y}^2", "two superscripts"),
        ("x^_y", r"something is missing between '\^' and '_'"),
    ],
)
def test_scripts_that_tex_refuses_are_refused(tex, why):
    with pytest.raises(TnconvError, match=why):
        runs(tex)


@pytest.mark.parametrize("tex", ["x^{y^z}", "{x^y}^z", "x'^2", "x''", "x_1'", "x_1^2", "a^2b^2", "x^2_1"])
def test_scripts_that_tex_takes_are_taken(tex):
    assert plain(tex)


def test_letters_are_slanted_and_indices_are_small_and_low():
    k, one, prime = runs("k_1'")
    assert (k.italic, k.rise, k.scale) == (True, 0, 1)
    assert not one.italic and one.rise < 0 and one.scale < 1
    assert prime.rise == 0 and prime.scale == 1
    (raised,) = [run for run in runs("x^{a_b}") if run.text == "b"]
    assert 0 < raised.rise < runs("x^a")[1].rise and raised.scale == pytest.approx(runs("x^a")[1].scale ** 2)
    bold, letter = runs(r"\mathbf{X}y")
    assert bold.bold and not bold.italic and not letter.bold and letter.italic


@pytest.mark.parametrize("tex", ["{k", "k}", "k_", "k_}", r"\mathbf", r"\frac{1}"])
def test_what_is_no_mathematics_is_refused(tex):
    with pytest.raises(TnconvError, match=r"is no mathematics: .*; write it as in 'k_1'"):
        runs(tex)


def test_commands_that_only_tex_knows_are_told():
    assert unknown_command(r"a\overbrace{b}") == r"\overbrace"


@pytest.mark.parametrize(
    ("name", "tex"),
    [
        ("x", "x"),
        ("k1", "k_1"),
        ("k1_2", "k_1'"),
        ("x_2", "x'"),
        ("c_3", "c''"),
        ("c_9", "c^{(9)}"),
        ("o12", "o_{12}"),
        ("weight", r"\mathrm{weight}"),
        ("grad_output_2", r"\mathrm{grad\_output}'"),
        ("alpha2", r"\alpha_2"),
        ("a1b", r"\mathrm{a1b}"),
    ],
)
def test_names_as_mathematics(name, tex):
    assert mathematical(name) == tex
    runs(tex)
