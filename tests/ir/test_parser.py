"""The parser: what it reads, how it refuses, and that no text hangs it, breaks it or gets evaluated."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.work import calls_of
from tnconv.errors import NetworkError, ParseError, TnconvError
from tnconv.ir import Delta, Network, Pattern, Sum, parse, parse_network, symbol
from tnconv.testing import networks

VALID = """\
network net {
  index [n=N, a=2, b=3, i=5, k=2, o=2]
  x = input       [n, (a b), 2*o + k < 5, 1]
  y = input{of=x} [n, (a b), i, 1]
  d = delta       [k = o]
  p = pattern     [i = 2*o + k - 1 mod 5]
  s = scale       [-1/(3*N)]
  output          [n, a + 1 < 4]
}"""


def edited(old, new):
    assert old in VALID
    return VALID.replace(old, new)


def lines(body, index="a=2, b=3, i=5, o=2"):
    return f"network net {{\n index [{index}]\n {body}\n output []\n}}"


# -- what it reads -----------------------------------------------------------------------------------


def test_reads_what_a_person_writes():
    text = """
    # a comment
    network   net{
        index[ n = N ,a=2,b=3,i=5,o=2,k=2 ]   # sizes
      s=scale[ -1/(3*N) ]
      y   =  input { of = x } [n,(a   b),i,1]

      x = input[ n, ( a b ), 2 * o+k<5, 1 ]
      d = delta [k = o]
      p = pattern [i = -1 + k + 2*o mod 5]
      output [n, 1 + a < 4]
    }
    """
    assert parse(text) == parse(VALID)
    assert str(parse(text)) == VALID


def test_relations():
    def relation(text):
        (found,) = parse_network(lines(f"p = pattern [{text}]")).patterns
        return found

    made = relation("i = -2*a + b - o + 0")
    assert isinstance(made, Pattern)
    assert {index.name: c for c, index in made.terms} == {"a": -2, "b": 1, "o": -1}
    assert (made.offset, made.modulus) == (0, None)
    assert relation("i = 3 - 1").offset == 2
    assert relation("i = +a + a").terms[0][0] == 2
    assert isinstance(relation("a = o"), Delta)
    assert relation("i = o mod 5").modulus == 5
    assert relation("i = o reflect 5").mode == "reflect"
    assert (relation("i = o + 1   replicate 5").mode, relation("i = 1 replicate 5").offset) == (
        "replicate",
        1,
    )
    assert relation("i = 2").terms == ()


def test_an_index_or_a_symbol_may_be_called_like_a_mode():
    text = """network n {
  index [i=mod, mod=3, reflect=2, replicate=2]
  p = pattern   [i = 2*mod + reflect - 1 mod mod]
  q = pattern   [mod = reflect + replicate replicate 3]
  r = pattern   [mod = replicate + reflect]
  s = pattern   [reflect = mod reflect 2]
  output        []
}"""
    made = parse_network(text)
    assert parse(str(made)) == made
    assert [p.mode for p in made.patterns] == ["circular", "replicate", "circular", "reflect"]
    assert [p.modulus for p in made.patterns] == [symbol("mod"), 3, None, 2]
    assert [len(p.terms) for p in made.patterns] == [2, 2, 2, 1]


def test_reads_sums_and_empty_networks():
    one = "network one {\n index []\n output []\n}"
    assert parse(one) == Network("one", (), ())
    total = parse(f"sum total {{\n{one}\n{one}\n}}")
    assert isinstance(total, Sum)
    assert len(total.terms) == 2
    with pytest.raises(ParseError, match="the text is a sum of 2 networks; one network is needed here"):
        parse_network(str(total))


def test_unused_indices_are_dropped():
    assert [i.name for i in parse_network(lines("x = input [a]")).indices] == ["a"]


# -- how it refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "number"),
    [
        ("", r"expected 'network NAME \{' \(the text is empty\)", None),
        ("  \n # only a comment", r"expected 'network NAME \{' \(the text is empty\)", None),
        ("hello", r"line 1: expected 'network NAME \{'", 1),
        ("network {", r"expected 'network NAME \{'", 1),
        ("summit", r"expected 'sum NAME \{'", 1),
        ("sum s {\n}", r"sum 's' has no terms", None),
        ("sum s {\nnonsense\n}", r"line 2: expected '\}'", 2),
        ("network a b {", r"expected 'network NAME \{'", 1),
        ("network n {", "the text ends too early; is a '}' missing?", 1),
        ("network n {\n x = input []", "expected 'index ", 2),
        (edited("index [n=N", "index [n"), "index 'n' has no size; write n=SIZE", 2),
        (edited("n=N,", "n=N, n=3,"), "index 'n' is declared twice; remove one", 2),
        (edited("n=N,", "n=0,"), "size 0 is not between", 2),
        (edited("n=N,", "n=,"), "is not an arithmetic expression", 2),
        (edited("n=N,", "9n=3,"), "index name '9n' is not a name", 2),
        (edited("n=N,", "n=__import__('os'),"), "is not an arithmetic expression", 2),
        (edited("x = input ", "x input "), r"expected 'name = kind \[legs\]'", 3),
        (edited("= input  ", "= inputs"), r"'inputs' is not a node kind \(did you mean 'input'\?\); the kinds are input, parameter", 3),
        (edited("x = input ", "9x = input "), "node name '9x' is not a name", 3),
        (edited("(a b), 2", "(a z), 2"), "index 'z' is not declared; add it to the index line, which has n, a, b", 3),
        (edited("2*o + k <", "2*o + <"), "is not affine at", 3),
        (edited("2*o + k <", "2*o k <"), "'2\\*o k' is not affine at 'k'", 3),
        (edited("2*o + k <", "o*2 + k <"), "is not affine at", 3),
        (edited("2*o + k <", "<"), "'' is not affine at ''", 3),
        (edited("2*o + k < 5", "2*o + k < five!"), "five!' is not an arithmetic expression", 3),
        (edited("2*o + k - 1 mod", "2*o + 3*4 mod"), "multiplies two numbers; write their product", 6),
        (edited("i = 2*o", "2*o"), "relation '2\\*o \\+ k - 1 mod 5' has no '='; write i = ", 6),
        (edited("i = 2*o + k", f"i = {'9' * 21}*o + k"), "is not affine at", 6),
        (edited("mod 5", "mod -5"), "size -5 is not between", 6),
        (edited("mod 5", "reflect 4"), "is invalid:\n.*'p' reflects at 4 but its left index 'i' has size 5", None),
        (edited("mod 5", "modulo 5"), "is not affine at 'modulo 5'", 6),
        (edited("d = delta ", "d = delta{of=x} "), "only a tensor reads an argument; remove {of=x} from delta 'd'", 5),
        (edited("[k = o]", "[k = 2*k]"), "pattern 'd' has index 'k' on both sides", 5),
        (edited("-1/(3*N)", "-1/(3*N"), "is not an arithmetic expression", 7),
        (edited("-1/(3*N)", "1/0"), "is not an arithmetic expression", 7),
        (edited("output          [n, a + 1 < 4]", "output          [n, a + 1 < 4"), r"expected 'output \[axes\]'", 8),
        (edited("output          [n, a + 1 < 4]\n", ""), "expected 'name = kind", 8),
        (edited("[n, a + 1 < 4]", "[n, q]"), "index 'q' is not declared", 8),
        (VALID[:-2], "expected '}'", 8),
        (VALID + "\n}", "text behind the closing '}'; remove it", 10),
        (edited("\n}", " }"), r"expected 'output \[axes\]'", 8),
        (edited("2*o + k < 5", "2*o + k < 4"), "reaches cells 0 to 3|read argument 'x'", None),
        (edited("d = delta", "x = delta"), "two nodes are called 'x'", None),
    ],
)  # fmt: skip
def test_refuses_with_the_line(text, message, number):
    with pytest.raises(NetworkError, match=message) as caught:
        parse(text)
    if number is not None:
        assert isinstance(caught.value, ParseError)
        assert str(caught.value).startswith(f"line {number}: ")
        shown = str(caught.value).splitlines()[-2:]
        assert shown[0].startswith(f"  {number} | ")
        assert set(shown[1]) <= set(" |^")


@pytest.mark.parametrize("text", [None, 3, b"network n {\n index []\n output []\n}", "x" * 2_000_001])
def test_refuses_what_is_no_text(text):
    with pytest.raises(ParseError, match="the text is not a str, or longer than 2,000,000 characters"):
        parse(text)


def test_an_invalid_network_is_shown_with_marks():
    with pytest.raises(
        NetworkError, match=r"> p = pattern   \[i = a mod 2\]   # <-- pattern 'p' is modulo 2"
    ):
        parse(lines("p = pattern [i = a mod 2]"))


# -- fuzz --------------------------------------------------------------------------------------------

LONG = 200_000
HOSTILE = {
    "blanks": lines("x = input" + " " * LONG + "]"),
    "tabs": lines("x = input" + "\t " * LONG + "]"),
    "blanks in a relation": lines("p = pattern [i = a +" + " " * LONG + "?]"),
    "blanks in of": lines("x = input{of" + " " * LONG + "]"),
    "blanks in a header": "network" + " " * LONG + "x",
    "letters": lines("x = " + "a" * LONG),
    "a long name": lines("a" * LONG + " = input []"),
    "digits": lines("p = pattern [i = " + "9" * LONG + "]"),
    "digits and blanks": lines("p = pattern [i = " + "9 " * LONG + "]"),
    "a large factor": lines("p = pattern [i = " + "9" * LONG + "*a]"),
    "a large size": lines("", index="a=" + "9" * LONG),
    "a large axis": lines("x = input [a < " + "9" * 390 + "]"),
    "terms": lines("p = pattern [i = " + "a + " * (LONG // 4) + "a]"),
    "parentheses": lines("x = input [" + "(" * LONG + ")" * LONG + "]"),
    "deep scale": lines("s = scale [" + "(" * 195 + "1" + ")" * 195 + "]"),
    "very deep scale": lines("s = scale [" + "(" * LONG + "]"),
    "minuses": lines("s = scale [" + "-" * 399 + "1]"),
    "powers": lines("s = scale [9**9**9]"),
    "nested powers": lines("s = scale [" + "(" * 20 + "9" + "**8)" * 20 + "]"),
    "power of a size": lines("", index="a=2**8**8**8"),
    "floors": lines("", index="a=" + "floor(" * 50 + "N" + ")" * 50),
    "commas": lines("x = input [" + "," * LONG + "]"),
    "brackets": lines("x = input [" + "]" * LONG),
    "equals": lines("=" * LONG),
    "lines": "network n {\n" * 50_000,
    "sums": "sum s {\n" * 50_000,
    "many axes": lines("x = input [" + ", ".join(["1"] * 20_000) + "]"),
    "hashes": "#" * LONG,
    "empty lines": "\n" * LONG,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_text_hangs_the_parser(case):
    def work():
        try:
            parse(HOSTILE[case])
        except TnconvError as error:
            assert str(error)

    calls_of(work, most=20 * len(HOSTILE[case]) + 10_000)  # measured: at most 10 a character


ATTACKS = [
    "__import__('os').abort()",
    "exec('raise SystemExit')",
    "().__class__",
    "open('x','w')",
    "os.abort()",
    "N.abort()",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "place", ["n=N", "net {", "x = input", "of=x", "(a b)", "< 5", "2*o", "mod 5", "-1/(3*N)", "< 4"]
)
def test_nothing_is_executed(place, attack):
    with pytest.raises(NetworkError):
        parse(edited(place, place.replace(place.strip(" <{=")[-1:], attack)))


@settings(max_examples=200)
@given(st.text(max_size=60))
@example("network \u2028 {")
@example("\x00")
def test_random_text(text):
    for candidate in (text, lines(text), VALID.replace("2*o + k", text), VALID.replace("3*N", text)):
        try:
            found = parse(candidate)
        except TnconvError:
            continue
        assert parse(str(found)) == found


PIECES = [
    *"()[]{}=,<>*+-/#\n \t.0123459aNxo_",
    "**",
    "floor(",
    "mod",
    "٣",
    "²",
    "é",
    "\u2028",
    "\x0b",
    "of=",
    "input",
    "index",
    "output",
    "1" * 30,
]


@settings(max_examples=200)
@given(networks(symbolic=True, selects=True, max_tensors=2, max_volume=100), st.data())
def test_mutated_texts(network, data):
    text = str(network)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.sampled_from((0, 1, 1, 2, 8)))
        text = text[:place] + data.draw(st.sampled_from(["", *PIECES])) + text[place + cut :]
    try:
        found = parse(text)
    except TnconvError as error:
        assert str(error)
        return
    assert parse(str(found)) == found
    assert str(parse(str(found))) == str(found)


@settings(max_examples=60)
@given(networks(selects=True), st.data())
def test_lines_deleted_or_doubled(network, data):
    rows = str(network).splitlines()
    place = data.draw(st.integers(0, len(rows) - 1))
    for changed in (rows[:place] + rows[place + 1 :], [*rows[: place + 1], *rows[place:]]):
        try:
            found = parse("\n".join(changed))
        except TnconvError:
            continue
        assert parse(str(found)) == found
