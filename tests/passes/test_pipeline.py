"""The pipeline: texts that parse back, stages, contracts, and errors that say where."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest

from tnconv.errors import PassError
from tnconv.ir import Network, Sum, parse_network
from tnconv.passes import DEFAULT, Pass, PassResult, Pipeline, parse_pass, run_pass
from tnconv.passes.arrange import Arrange, ScaleBy
from tnconv.passes.batch import Batch
from tnconv.passes.differentiate import Differentiate

TEXT = "network a {\n index [n=2, c=3]\n x = input [n, c]\n w = parameter [c]\n output [n]\n}"
NETWORK = parse_network(TEXT)


@dataclass(frozen=True)
class Lambda(Pass):
    """A pass that does what a test says."""

    name: ClassVar[str] = "lambda"
    result: ClassVar = None

    def apply(self, network: Network) -> PassResult:
        return type(self).result(network)


def doing(result, **attributes):
    return type("Doing", (Lambda,), {"result": staticmethod(result), **attributes})()


@pytest.mark.parametrize(
    "text",
    [
        "dense",
        "batch{index=v, over=[x, w], size=3}",
        "batch{index=v, size=2*N}",
        "differentiate{wrt=weight, cotangent=grad_output}",
        "differentiate{wrt=weight}",
        "arrange{output=[n, (g c k1 k2), (o1 o2)]}",
        "arrange{output=[]}",
        "scale{by=1/(N*T)}",
        "square{over=[n, o1], keep=[g]}",
        "tie{left=a, right=b}",
        "absorb_deltas | dense | batch{index=v, over=[x]}",
        "",
    ],
)
def test_text_parses_back(text):
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    assert Pipeline.parse(str(pipeline)) == pipeline


def test_texts_are_read_generously():
    assert parse_pass(" batch { index = v , over = [ x ] } ") == Batch("v", ("x",))
    assert parse_pass("batch{index=v, over=x}") == Batch("v", ("x",))
    assert parse_pass('arrange{output="[n, (a b)]"}') == Arrange(("n", "(a b)")) == Arrange("[n, (a b)]")
    assert parse_pass("differentiate{wrt=x, cotangent=none}") == Differentiate("x")
    assert Batch("v", ["x"], 3) == Batch("v", ("x",), "3")
    assert str(ScaleBy(2)) == "scale{by=2}"


def test_presets_and_lists():
    assert str(Pipeline.parse("default")) == DEFAULT
    assert Pipeline.parse("none") == Pipeline()
    assert Pipeline.parse(["dense", Batch("v")]) == Pipeline.parse("dense | batch{index=v}")
    assert Pipeline.parse(Pipeline.parse("dense")) == Pipeline.parse("dense")
    assert len(Pipeline.parse("default | batch{index=v}").passes) == len(Pipeline.parse("default").passes) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "denes",
            r"there is no pass 'denes' \(did you mean 'dense'\?\); the passes are absorb_deltas, arrange, ",
        ),
        ("dense{x=1}", "pass 'dense' has no option 'x'; it has none"),
        (
            "batch{indx=v}",
            r"pass 'batch' has no option 'indx' \(did you mean 'index'\?\); it has index, over, size",
        ),
        ("batch", "pass 'batch' needs option 'index'; write batch{index=VALUE}"),
        ("batch{index}", "option 'index' of pass 'batch' has no value; write index=VALUE"),
        ("batch{index=a, index=b}", "pass 'batch' has option 'index' twice"),
        ("batch{index=[a}", r"bracket '}' in .* does not close one"),
        ("batch{index=[a]", "ends before '}'; balance the brackets"),
        ("batch{index=v", "ends before '}'"),
        ("1abc", "'1abc' is not a pass; write name or name"),
        ("dense dense", "'dense dense' is not a pass"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(PassError, match=message):
        Pipeline.parse(text)


def test_options_are_checked():
    with pytest.raises(PassError, match="option 'index' of pass 'batch' is 3, not a text; write one"):
        Batch(3)
    with pytest.raises(
        PassError, match=r"option 'over' of pass 'batch' is 'x', not a list such as \[a, b\]; write one"
    ):
        Batch("v", "x")
    with pytest.raises(
        PassError, match=r"option 'index' of pass 'batch' is 'a.b'; an option cannot hold quotes or line"
    ):
        Batch('a"b')
    with pytest.raises(
        PassError, match="option 'cotangent' of pass 'differentiate' is 3, not a text or none"
    ):
        Differentiate("x", 3)


def test_every_kind_of_option_has_a_text():
    @dataclass(frozen=True)
    class Options(Pass):
        name: ClassVar[str] = "options"
        count: int = 0
        fast: bool = False
        label: str | None = "a"

    assert str(Options(count=-3, fast=True, label=None)) == "options{count=-3, fast=true, label=none}"
    assert str(Options(label="a, b")) == 'options{label="a, b"}'
    assert str(Options(label="none")) == 'options{label="none"}'
    with pytest.raises(PassError, match="option 'fast' of pass 'options' is 1, not true or false"):
        Options(fast=1)
    with pytest.raises(PassError, match="option 'count' of pass 'options' is True, not an integer"):
        Options(count=True)


def test_stages_record_what_happened():
    after, stages = Pipeline.parse("dense | batch{index=v, size=2}").run(NETWORK)
    assert [(s.text, s.changed) for s in stages] == [("dense", False), ("batch{index=v, size=2}", True)]
    assert stages[0].before is NETWORK is stages[0].after
    assert stages[1].after is after
    assert stages[1].notes == ("v on x",)


def test_a_stage_of_a_pickle_has_its_pass_where_the_text_names_one():
    own = doing(lambda network: PassResult(network.rename("b"), True, ("renamed",), (("own", 2),)))
    _, stages = Pipeline((Batch("v", size=2), own)).run(NETWORK)
    assert [stage.pass_ for stage in stages] == [Batch("v", size=2), own]
    read = pickle.loads(pickle.dumps(stages))  # what `doing` makes is not importable
    assert read == stages
    assert [stage.pass_ for stage in read] == [Batch("v", size=2), None]
    assert read[1].fired == (("own", 2),)


def test_errors_say_where_and_show_the_network():
    with pytest.raises(PassError) as error:
        Pipeline.parse("dense | batch{index=n} | dense").run(NETWORK)
    assert str(error.value).startswith("pass 2 of 3, batch{index=n}: the name 'n' is taken")
    assert str(NETWORK) in str(error.value)


def test_any_exception_is_located():
    with pytest.raises(PassError, match="pass 1 of 1, lambda: ZeroDivisionError: "):
        Pipeline((doing(lambda network: 1 // 0),)).run(NETWORK)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda network: network, r"apply returned Network; return PassResult\(network, changed, notes\)"),
        (lambda network: PassResult(None, True), r"apply returned PassResult"),
        (
            lambda network: PassResult(network, True),
            r"apply says changed=True but the network is the same \('",
        ),
        (
            lambda network: PassResult(network.rename("b"), False),
            "apply says changed=False but the network differs",
        ),
    ],
)
def test_contract(result, message):
    with pytest.raises(PassError, match=message):
        Pipeline((doing(result),)).run(NETWORK)


def test_requires_and_ensures_run():
    def refuse(self, *networks):
        raise PassError(f"saw {len(networks)}")

    idle = doing(lambda network: PassResult(network, False), requires=refuse)
    with pytest.raises(PassError, match="pass 1 of 1, lambda: saw 1"):
        Pipeline((idle,)).run(NETWORK)
    idle = doing(lambda network: PassResult(network, False), ensures=refuse)
    with pytest.raises(PassError, match="pass 1 of 1, lambda: saw 2"):
        Pipeline((idle,)).run(NETWORK)


def test_an_invalid_result_cannot_be_built():
    def break_it(network):
        return PassResult(network.with_nodes((*network.nodes, *network.nodes)), True)

    with pytest.raises(PassError, match="two nodes are called 'x'; rename one"):
        Pipeline((doing(break_it),)).run(NETWORK)


def test_a_pass_without_apply():
    @dataclass(frozen=True)
    class Empty(Pass):
        name: ClassVar[str] = "empty"

    with pytest.raises(PassError, match="NotImplementedError: pass 'empty' has no apply"):
        Pipeline((Empty(),)).run(NETWORK)


def test_sums_are_mapped_and_flattened():
    total = Sum("t", (NETWORK, NETWORK.rename("b")))
    split = doing(lambda network: PassResult(Sum("s", (network, network.rename("c"))), True))
    after, _ = run_pass(split, total)
    assert isinstance(after, Sum)
    assert after.name == "t"
    assert len(after.terms) == 4


def test_nothing_left_is_an_error():
    nothing = doing(None, prepare=lambda self, expression: (self, ()))
    with pytest.raises(PassError, match="no term of the sum is left"):
        Pipeline((nothing,)).run(NETWORK)


def test_check_sees_every_stage():
    seen = []
    Pipeline.parse("dense | batch{index=v}").run(
        NETWORK, lambda each, before, after: seen.append((str(each), after))
    )
    assert [text for text, _ in seen] == ["dense", "batch{index=v}"]


@pytest.mark.parametrize("passes", ["default", ("dense",), 3])
def test_a_pipeline_is_made_of_passes(passes):
    with pytest.raises(PassError, match=r"are no passes; Pipeline.parse reads texts|passes hold 3"):
        Pipeline(passes)
