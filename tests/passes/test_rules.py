"""Rewiring: every rule does what its docstring shows, keeps the value exactly, and comes to an end."""

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_strategies import chains

from tnconv.backends.reference import evaluate
from tnconv.errors import PassError
from tnconv.ir import Delta, Index, Network, Scale, Sum, Tensor, group, parse, parse_network
from tnconv.passes import Pipeline, RewritePass, available, exact_check, get, rule
from tnconv.passes.rules.deltas import AbsorbDeltas
from tnconv.testing import assert_roundtrip, assert_same_value, assert_valid, networks, seeds

REWRITES = [name for name in available() if issubclass(get(name), RewritePass)]
RULES = [each for name in REWRITES for each in get(name).rules]


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.name)
def test_docstring_is_what_the_rule_does(each):
    before, after = parse_network(each.before), parse_network(each.after)
    found = each(before)
    assert found is not None
    assert str(found) == str(after)
    assert_same_value(before, found, symbols={"N": 2})
    assert each.sentence.endswith(".")
    assert "\n" not in each.sentence


def test_every_rule_is_tested():
    assert len(RULES) == len({each.name for each in RULES}) >= 10


@pytest.mark.parametrize("name", REWRITES)
def test_rewriting_keeps_value_and_validity(name):
    fired = []

    def law(network, seed):
        rewriting = get(name)()
        result = rewriting.apply(network)
        fired.append(result.changed)
        assert result.changed == (result.network != network)
        assert_valid(result.network)
        assert_roundtrip(result.network)
        assert_same_value(network, result.network, seed)
        again = rewriting.apply(result.network)
        assert not again.changed, "a fixpoint is one"

    settings(max_examples=40)(given(chains(), seeds())(law))()
    for selects in (False, True):
        random = networks(max_patterns=4, max_volume=4000, selects=selects)
        settings(max_examples=30)(given(random, seeds())(law))()
    assert any(fired)


@settings(max_examples=120)
@given(st.one_of(chains(), networks(max_patterns=4, max_volume=4000, selects=True)), seeds())
def test_default_pipeline_keeps_the_value(network, seed):
    after, stages = Pipeline.parse("default").run(network)
    assert [stage.before for stage in stages[1:]] == [stage.after for stage in stages[:-1]]
    assert_same_value(network, after, seed)


@settings(max_examples=40)
@given(chains())
def test_exact_check_passes_the_default_pipeline(network):
    Pipeline.parse("default").run(network, exact_check(evaluate, instances=1))


def guarded(text):
    """The network and what the named passes make of it."""
    return parse_network("network example {" + text + "\n}")


@pytest.mark.parametrize(
    ("names", "pattern", "sizes"),
    [
        ("dense | downsample | unit_kernels", "i = 3*o + k - 1", "i=12, k=3, o=4"),
        ("dense | downsample | unit_kernels", "i = 3*o + k", "i=11, k=3, o=4"),
        ("dense | downsample | unit_kernels", "i = 2*o + k", "i=12, k=3, o=4"),
        ("dense | downsample | unit_kernels", "i = 3*o - k + 2", "i=12, k=3, o=4"),
        ("dense | downsample | unit_kernels", "i = 3*o + k mod 12", "i=12, k=3, o=4"),
        ("dense | downsample | unit_kernels", "i = 3*o + k reflect 12", "i=12, k=3, o=4"),
        ("window_sums", "i = o + k - 1", "i=12, k=3, o=12"),
        ("window_sums", "i = o + k - 1 reflect 12", "i=12, k=3, o=12"),
        ("window_sums", "i = o + k - 1 replicate 12", "i=12, k=3, o=12"),
    ],
)
def test_guards_hold_back(names, pattern, sizes):
    output = "[k]" if names == "window_sums" else "[k, o]"
    before = guarded(f"\n  index [{sizes}]\n  x = input [i]\n  p = pattern [{pattern}]\n  output {output}")
    after, _ = Pipeline.parse(names).run(before)
    assert after is before


def test_only_a_circle_has_each_residue_once():
    for word, scale in (("mod", 1), ("reflect", None), ("replicate", None)):
        before = guarded(f"\n  index [i=4, k=3, o=4]\n  w = input [k]\n  x = input [i]"
                         f"\n  p = pattern [i = o + k {word} 4]\n  output [k]")  # fmt: skip
        after, _ = Pipeline.parse("window_sums").run(before)
        assert (after is before) == (scale is None)
        assert_same_value(before, after)


@pytest.mark.parametrize("word", ["mod", "reflect", "replicate"])
def test_every_position_folds_into_one_cell(word):
    before = guarded(
        f"\n  index [i=4, k=3, o=9]\n  w = input [k]\n  p = pattern [i = o - k {word} 4]\n  output []"
    )
    after, _ = Pipeline.parse("window_sums").run(before)
    assert not after.patterns
    assert after.scale == 9
    assert_same_value(before, after)


@pytest.mark.parametrize(("word", "cell"), [("mod", 3), ("reflect", 1), ("replicate", 0)])
def test_a_fixed_position_folds(word, cell):
    before = guarded(
        f"\n  index [c=3, i=4]\n  x = input [c, i]\n  p = pattern [i = -1 {word} 4]\n  output [c]"
    )
    after, _ = Pipeline.parse("drop_unit_indices").run(before)
    assert str(after.node("x").axes[1]) == (f"{cell} < 4")
    assert_same_value(before, after)


@pytest.mark.parametrize(("words", "fires"), [
    (("mod", "mod"), True), (("reflect", "reflect"), False), (("replicate", "replicate"), False),
    (("reflect", "mod"), False), (("mod", "reflect"), False),
])  # fmt: skip
def test_only_a_circle_absorbs_a_circle(words, fires):
    inner, outer = words
    before = guarded(f"\n  index [i=6, q=6, k=3, l=2, o=6]\n  x = input [i]\n  p = pattern [i = q + k - 1 {outer} 6]"
                     f"\n  r = pattern [q = o + l - 1 {inner} 6]\n  output [k, l, o]")  # fmt: skip
    after, _ = Pipeline.parse("compose_patterns").run(before)
    assert (len(after.patterns) == 1) == fires
    assert_same_value(before, after)


@pytest.mark.parametrize("word", ["mod", "reflect", "replicate"])
def test_a_plain_relation_is_written_into_one_that_folds(word):
    before = guarded(f"\n  index [i=6, q=8, k=3, l=2, o=7]\n  x = input [i]\n  p = pattern [i = q + k - 3 {word} 6]"
                     "\n  r = pattern [q = o + l]\n  output [k, l, o]")  # fmt: skip
    after, _ = Pipeline.parse("compose_patterns").run(before)
    (found,) = after.patterns
    assert found.relation_text() == f"i = l + o + k - 3 {word} 6"
    assert_same_value(before, after)


def test_a_contradiction_is_left_alone():
    before = guarded("\n  index [i=4]\n  x = input [i]\n  p = pattern [i = 7]\n  output []")
    assert Pipeline.parse("default").run(before)[0] is before


def test_an_index_is_not_put_twice_into_the_output():
    before = guarded("\n  index [a=4, b=4]\n  d = delta [a = b]\n  output [a, b]")
    assert Pipeline.parse("default").run(before)[0] is before


def test_a_lost_index_leaves_its_size():
    before = guarded("\n  index [a=4, b=4, c=3]\n  x = input [c]\n  d = delta [a = b]\n  output [c]")
    after, _ = Pipeline.parse("absorb_deltas").run(before)
    assert after.scale == 4


def test_two_nodes_of_one_argument_keep_their_shapes():
    before = guarded(
        "\n  index [i=12, i_2=12, k=3, o=4]\n  x = input [i]\n  x_2 = input{of=x} [i_2]"
        "\n  p = pattern [i = 3*o + k]\n  output [k, o, i_2]"
    )
    after, _ = Pipeline.parse("default").run(before)
    assert str(after.node("x").axes[0]) == "(o k)"
    assert_same_value(before, after)


def test_notes_say_which_rule_fired_on_what():
    before = guarded(
        "\n  index [a=4, b=4, c=4]\n  x = input [a]\n  d = delta [a = b]\n  e = delta [b = c]\n  output [c]"
    )
    _, (stage,) = Pipeline.parse("absorb_deltas").run(before)
    assert stage.notes == ("absorb_plain_deltas x1: d, e",)
    assert stage.fired == (("absorb_plain_deltas", 1),)
    assert stage.pass_ == AbsorbDeltas()
    _, (both,) = Pipeline.parse("absorb_deltas").run(Sum("s", (before, before.rename("other"))))
    assert both.fired == (("absorb_plain_deltas", 2),)


def test_hundreds_of_deltas_go_at_once():
    legs = [Index(f"a{j}", 2) for j in range(400)]
    tensors = [Tensor(f"t{j}", "parameter", (group(legs[2 * j]), group(legs[2 * j + 1]))) for j in range(200)]
    deltas = [Delta(f"d{j}", legs[2 * j + 1], legs[2 * j + 2]) for j in range(199)]
    chain = Network("chain", (*tensors, *deltas), (group(legs[0]), group(legs[-1])))
    after, stages = Pipeline.parse("default").run(chain)
    assert len(after.nodes) == 200
    assert sum(len(stage.notes) for stage in stages) == 1


def test_symbolic_windows_that_tile_are_dense():
    before = guarded(
        "\n  index [i=4*T, k=4, o=T]\n  x = input [i]\n  p = pattern [i = 4*o + k]\n  output [k, o]"
    )
    after, _ = Pipeline.parse("default").run(before)
    assert str(after.node("x").axes[0]) == "(o k)"


def test_window_sums_are_named():
    before = guarded(
        "\n  index [i=12, k=3, o=12]\n  x = input [i]\n  p = pattern [i = o + k - 1]\n  output [k]"
    )
    _, (stage,) = Pipeline.parse("window_sums").run(before)
    assert stage.notes == ("window sums left: p over o",)
    assert not stage.changed


def test_rules_that_never_end_are_stopped():
    @rule
    def grow(network: Network) -> Network:
        """Adds a scale again and again.

        Before:
            network a {
        After:
            network a {
        """
        return network.with_nodes((*network.nodes, Scale(network.fresh_name("s"), 2)))

    class Grow(RewritePass):
        name: ClassVar[str] = "grow"
        rules: ClassVar = (grow,)

    with pytest.raises(
        PassError, match=r"the rules grow still fire after 16 steps; make each reduce something"
    ):
        Grow().apply(parse("network a {\n index []\n s = scale [2]\n output []\n}"))


def test_a_rule_that_returns_its_argument_is_named():
    @rule
    def idle(network: Network) -> Network:
        """Does nothing.

        Before:
            network a {
        After:
            network a {
        """
        return network

    class Idle(RewritePass):
        name: ClassVar[str] = "idle"
        rules: ClassVar = (idle,)

    with pytest.raises(PassError, match="rule 'idle' returned the network that it was given"):
        Idle().apply(parse("network a {\n index []\n output []\n}"))


def test_a_rule_needs_its_docstring():
    def bare(network: Network) -> None:
        """Says nothing."""

    with pytest.raises(PassError, match="rule 'bare' needs a docstring"):
        rule(bare)


@pytest.mark.parametrize("folded", ["", " mod 4", " reflect 4", " replicate 4"])
@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_twins_are_matched_where_no_two_positions_fold_alike(folded, kernel):
    """`k = k_2` for zero padding, and for circular padding unless the kernel goes round the input."""
    network = parse_network(f"""network t {{
      index [i=4, k={kernel}, k_2={kernel}, o=5]
      p   = pattern         [i = o + k - 1{folded}]
      p_2 = pattern         [i = o + k_2 - 1{folded}]
      w   = parameter       [k]
      w_2 = parameter{{of=w}} [k_2]
      y   = cotangent       [o]
      output                [i]
    }}""")
    after, _ = Pipeline.parse("absorb_deltas").run(network)
    assert_same_value(network, after)
    assert (len(after.patterns) == 1) == (not folded or (folded == " mod 4" and kernel <= 4))


@pytest.mark.parametrize("folded", ["", " mod 9", " reflect 9", " replicate 9"])
def test_twins_with_another_left_index_are_matched_in_every_mode(folded):
    network = parse_network(f"""network t {{
      index [i=9, i_2=9, k=3, o=4]
      x   = input       [i]
      x_2 = input{{of=x}} [i_2]
      p   = pattern     [i = 2*o + k - 1{folded}]
      p_2 = pattern     [i_2 = 2*o + k - 1{folded}]
      output            [k, o]
    }}""")
    after, _ = Pipeline.parse("absorb_deltas").run(network)
    assert_same_value(network, after)
    assert len(after.patterns) == 1
