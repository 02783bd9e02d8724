"""Every rule of the IR: the message, and the line that it marks."""

import pytest

from tnconv.errors import NetworkError
from tnconv.ir import Axis, Delta, Index, Network, Pattern, Scale, Tensor, faults, group, symbol

I, J, K = Index("i", 5), Index("j", 3), Index("k", 3)  # noqa: E741
n = Index("n", symbol("N"))


def x(*axes, name="x", role="input", of=None):
    return Tensor(name, role, axes, of)


def axis(*args):
    return Axis(*args)


CASES = {
    "reserved": ([x(name="output")], (), "output", "node 'output' has a reserved name; rename it"),
    "reserved index": ([x(name="index")], (), "index", "node 'index' has a reserved name"),
    "twice": ([x(group(I)), Scale("x", 2)], (), "x", "two nodes are called 'x'; rename one"),
    "sizes": (
        [x(group(I)), Delta("d", Index("i", 4), Index("j", 4))], (), "d",
        "index 'i' has size 5 on node 'x' but 4 on node 'd'; build both from one Index, or rename one",
    ),
    "output sizes": ([x(group(I))], (group(Index("i", 4)),), "output", "has size 5 on node 'x' but 4 on the output"),
    "delta to itself": ([Delta("d", I, I)], (), "d", "delta 'd' joins index 'i' to itself; drop it"),
    "delta sizes": (
        [Delta("d", I, J)], (), "d", "delta 'd' joins 'i' of size 5 and 'j' of size 3; use a pattern to narrow",
    ),
    "layouts": (
        [x(group(I)), x(group(J), name="y", of="x")], (), "y",
        "nodes 'x' and 'y' read argument 'x' as input [5] and input [3]; give both one role and shape",
    ),
    "roles": (
        [x(group(I)), x(group(I), name="y", role="parameter", of="x")], (), "y", "as input [5] and parameter [5]",
    ),
    "axes": ([x(group(I)), x(group(I), group(J), name="y", of="x")], (), None, "read argument 'x' as"),
    "too short": ([x(axis((I,), (2,), 0, 8))], (), "x", "node 'x': axis 2*i < 8 reaches cells 0 to 8 but has 8; make it fit"),
    "negative start": ([x(axis((I,), (1,), -1, 8))], (), "x", "axis i - 1 < 8 reaches cells -1 to 3 but has 8"),
    "negative stride": ([x(axis((I,), (-1,), 4, 8))], (), "x", "axis -i + 4 < 8 reaches"),
    "stride zero": ([x(axis((I,), (0,), 0, 8))], (), "x", "axis 0*i < 8 reaches"),
    "overlap": (
        [x(axis((I, J), (2, 1), 0, 20))], (), "x",
        "axis 2*i + j < 20 puts two index combinations on one cell; use a pattern for a window",
    ),
    "overlap under a symbol": ([x(axis((n, J), (2, 1)))], (), "x", "puts two index combinations on one cell"),
    "symbolic stride": (
        [x(axis((J, n), (symbol("N") + 1, 1)))], (), "x", "has a symbolic stride; only a group such as (a b) may",
    ),
    "symbolic size": (
        [x(axis((n,), (2,), 1, symbol("N")))], (), "x", "axis 2*n + 1 < N reaches cells 1 to 2*N - 1 but has N; make it",
    ),
    "output overlap": ([], (axis((I, J), (1, 1)),), "output", "output: axis i + j < 7 puts two index combinations"),
    "coefficient": ([Pattern("p", I, ((2**31, J),))], (), "p", "pattern 'p' has a coefficient beyond 2**31"),
    "offset": ([Pattern("p", I, ((2, J),), -(2**62))], (), "p", "or an offset beyond 2**62"),
    "modulus": (
        [Pattern("p", I, ((1, J),), 0, 4)], (), "p",
        "pattern 'p' is modulo 4 but its left index 'i' has size 5; make them equal",
    ),
    "reflect": (
        [Pattern("p", I, ((1, J),), 0, 4, "reflect")], (), "p",
        "pattern 'p' reflects at 4 but its left index 'i' has size 5; make them equal",
    ),
    "replicate": (
        [Pattern("p", I, ((1, J),), 0, 6, "replicate")], (), "p",
        "pattern 'p' replicates at 6 but its left index 'i' has size 5; make them equal",
    ),
    "output twice": (
        [x(group(I))], (group(I), group(I)), "output", "index 'i' is twice in the output; add a second index and a delta",
    ),
    "output twice in a group": ([x(group(I))], (group(I, I),), "output", "index 'i' is twice in the output"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_faults_are_named_and_marked(case):
    nodes, output, line, message = CASES[case]
    with pytest.raises(NetworkError) as caught:
        Network("bad", tuple(nodes), output)
    text = str(caught.value)
    assert text.startswith("network 'bad' is invalid:\n  - ")
    assert message in text.split("\nnetwork bad {", maxsplit=1)[0]
    marked = [row for row in text.splitlines() if row.startswith("> ")]
    assert marked
    assert all("# <-- " in row for row in marked)
    if line is not None:
        assert any(row.split()[1] == line for row in marked)


def test_all_faults_are_collected():
    with pytest.raises(NetworkError) as caught:
        Network(
            "bad", (Delta("d", I, J), Pattern("p", I, ((1, J),), 0, 4), x(group(I))), (group(K), group(K))
        )
    text = str(caught.value)
    assert text.count("\n  - ") == 3
    assert [row.split()[1] for row in text.splitlines() if row.startswith("> ")] == ["d", "p", "output"]
    assert "  x = input     [i]" in text


@pytest.mark.parametrize(
    "good",
    [
        x(axis((I, J), (3, 1), 0, 15)),
        x(axis((J, I), (1, 3), 2, 20)),
        x(axis((I, Index("u", 1)), (2, 2), 0, 9)),
        x(axis((n,), (1,), 1, symbol("N") + 1)),
        x(axis((n, J), (4, 1))),
        x(group(J, n)),
        x(group(n, J)),
        x(group(I), group(I)),
        x(group(I, I)),
        x(group(), axis((), (), 3, 5)),
        Pattern("p", I, ((2**31 - 1, J), (-(2**31) + 1, K)), 2**62 - 1),
        Pattern("p", n, ((1, J),), 0, symbol("N")),
        Pattern("p", I, (), 2),
    ],
)
def test_what_is_valid(good):
    assert faults(Network("good", (good,), ())) == []


def test_network_names():
    for name in ("", "a b", ".a", "1", "a{", None):
        with pytest.raises(NetworkError, match=r"network name .* is not a name"):
            Network(name, (), ())
