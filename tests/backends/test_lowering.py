"""Whole programs against the reference backend, and what the generated source looks like."""

import ast
import gc
import linecache
import traceback
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from test_kernels import LAST_RESORT, RESNET, Forced, assert_program

import tnconv
from tnconv.backends.backend import How, backend_of
from tnconv.backends.torch.kernels import Kernel
from tnconv.backends.torch.kernels.kernel_table import kernel_table
from tnconv.backends.torch.lower import lower_with
from tnconv.backends.torch.numerics import runtime
from tnconv.errors import LoweringError, PluginError
from tnconv.ir import Expression, Index, Network, Sum, Tensor, group, parse, parse_network, pattern, symbol
from tnconv.passes import Pipeline
from tnconv.planner import format_plan, make_plan, parse_plan
from tnconv.plugins import KERNELS, register, unregister
from tnconv.program import parse_program
from tnconv.testing import networks, seeds, sums

OPERATIONS = ("forward", "input_vjp", "weight_vjp", "bias_vjp", "unfold", "kfac_expand", "kfac_reduce")


def assert_lowers(expression: Expression, seed: int, *names: str) -> None:
    """The one plan, with each of the tables; a program that another table has given is the same one."""
    plan, seen = make_plan(expression, planner="dp"), set()
    for name in names:
        program = lower_with(plan, tables()[name], {})
        if program.source not in seen:
            assert_program(program, expression, seed)
            assert_source(program.source)
            assert parse_program(str(program)) == program.text
            seen.add(program.source)


@cache
def tables() -> dict[str, dict[str, Kernel]]:
    """The table as it is, the last resort alone, and each kernel wherever it accepts."""
    whole = kernel_table()
    last = {LAST_RESORT: whole[LAST_RESORT]}
    return {"all": whole, **{name: {name: Forced(kernel), **last} for name, kernel in whole.items()}}


# -- values ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(network=networks(selects=True), seed=seeds())
def test_programs_equal_the_reference(network: Network, seed: int) -> None:
    assert_lowers(network, seed, *tables())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(total=sums(), seed=seeds())
def test_programs_of_sums_equal_the_reference(total: Sum, seed: int) -> None:
    assert_lowers(total, seed, "all", LAST_RESORT)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(network=networks(selects=True), seed=seeds())
def test_programs_of_rewritten_networks_equal_the_reference(network: Network, seed: int) -> None:
    """What `tnconv.compile` does with a network."""
    program = tnconv.compile(network).program
    assert_program(program, network, seed)


REGRESSIONS = {
    "an output index on no term of a sum": """sum t {
      network t {
        index [a=2, b=3, c=4]
        x = input [a]
        output    [a, b, c]
      }
      network t.2 {
        index [a=2, b=3, c=4]
        y = input [b]
        output    [a, b, c]
      }
    }""",
    "one product with two scales": """sum t {
      network t {
        index [a=2, b=5, c=2]
        x = input [a, b]
        y = input [b, c]
        s = scale [2]
        output    [a, c]
      }
      network t.2 {
        index [a=2, b=5, c=2]
        x = input [a, b]
        y = input [b, c]
        s = scale [3]
        output    [a, c]
      }
    }""",
    "no tensor": """network t {
      index [a=4, b=3, o=2]
      p = pattern [a = 2*o + b - 1]
      s = scale [1/2]
      output [a, b]
    }""",
    "a scalar": """network t {
      index [a=4]
      x = input [a]
      y = input [a]
      output []
    }""",
    "an index twice on a tensor, and on three": """network t {
      index [a=3, b=2]
      x = input [a, a, b]
      y = input [a]
      z = input [b, a]
      output [b]
    }""",
    "unread cells, and cells that stay zero": """network t {
      index [a=3, b=2]
      x = input [2*a + 1 < 9, b]
      output [3*b + a < 8]
    }""",
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_regressions(name: str) -> None:
    assert_lowers(parse(REGRESSIONS[name]), 0, *tables())


def test_symbols_are_read_off_the_shapes() -> None:
    n, m = (Index(name, symbol(name.upper())) for name in "nm")
    c = Index("c", 3)
    network = Network("t", (Tensor("x", "input", (group(n, c), group(m))),), (group(m), group(c)))
    function = tnconv.compile(network)
    x = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(function(x), x.view(2, 3, 5).sum(0).T)


def test_size_symbol_on_no_argument() -> None:
    network = parse_network(
        """network t {
          index [a=2, b=N]
          x = input [a]
          output    [a, b]
        }"""
    )
    with pytest.raises(LoweringError, match="size symbol 'N' cannot be read off the shape of an argument"):
        tnconv.compile(network)


# -- source ------------------------------------------------------------------------------------------


def assert_source(source: str) -> None:
    """Straight-line code: a shape comment a statement, `del` at once after the last use, each name written once."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    lines = source.splitlines()
    arguments = {a.arg for a in function.args.args}
    *body, end = function.body
    assert isinstance(end, ast.Return) and isinstance(end.value, ast.Name)
    last: dict[str, int] = {}
    deleted: dict[str, int] = {}
    written: dict[str, int] = {}
    helpers = {
        *("cell", "inside", "picked", "position", "target", "flat", "strip", "strips", "equal"),
        *("rows", "places"),
    }
    for number, statement in enumerate(body):
        assert isinstance(statement, ast.Assign | ast.Delete | ast.Expr), ast.dump(statement)
        for name in (n for n in ast.walk(statement) if isinstance(n, ast.Name)):
            if isinstance(name.ctx, ast.Load):
                last[name.id] = number
            elif isinstance(name.ctx, ast.Del):
                deleted[name.id] = number
            else:
                assert name.id not in written and name.id not in arguments, (
                    f"{name.id} is written twice\n{source}"
                )
                written[name.id] = number
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            line = lines[statement.lineno - 1]
            known = target.id.rsplit("_", 1)[0] if target.id[-1].isdigit() else target.id
            symbol_of = ast.unparse(statement.value).split(".shape[")[0] in arguments
            assert symbol_of or known in helpers or "  # [" in line, line
    tensors = [
        n
        for n in written
        if ast.unparse(body[written[n]]).split(" = ")[1].split(".shape[")[0] not in arguments
    ]
    for name in tensors:
        if name == end.value.id:
            assert name not in deleted
            continue
        use = max(last.get(name, -1), written[name])
        if use + 1 < len(body):
            assert deleted.get(name) == use + 1, f"{name} is not deleted after its last use\n{source}"


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("name", RESNET)
@pytest.mark.usefixtures("anew")
def test_source_of_layers(name: str, op: str) -> None:
    first, second = (tnconv.compile(RESNET[name], op) for _ in range(2))
    assert first.source == second.source
    assert first.program.function is not second.program.function
    assert_source(first.source)


def test_shape_comments_are_true() -> None:
    """Run programs line by line and compare each comment with the tensor's shape."""
    checked = 0
    for name, spec in RESNET.items():
        if name in ("stem", "last", "3x3 strided"):
            continue
        small = tnconv.ConvSpec(
            4, 4, spec.kernel_size, tuple(min(size, 9) for size in spec.input_sizes), batch_size=2,
            stride=spec.stride, padding=((2, 1),) * spec.spatial_dims, dilation=spec.dilation,
            groups=2 if spec.groups > 1 else 1,
        )  # fmt: skip
        for op in OPERATIONS:
            checked += _check_comments(tnconv.compile(small, op))
    assert checked > 50
    total = parse(REGRESSIONS["an output index on no term of a sum"])
    assert _check_comments(tnconv.compile(total)) > 2


def _check_comments(function: tnconv.CompiledFunction) -> int:
    sizes = {t.argument: t.axes for term in function.network.terms for t in term.tensors}
    space = {"torch": torch, "F": torch.nn.functional}
    space["rt"] = runtime
    for name in function.arguments:
        space[name] = torch.randn([axis.size for axis in sizes[name]])
    checked = 0
    for line in function.source.splitlines()[1:-1]:
        code, _, comment = line.strip().partition("  # ")
        exec(code, space)
        if comment.startswith("["):
            shape = ast.literal_eval(comment.split("] = ")[1].split(";")[0]) or ()
            assert tuple(space[code.split(" = ")[0]].shape) == (() if shape == ((),) else shape), line
            checked += 1
    return checked


@pytest.mark.parametrize("op", OPERATIONS)
def test_no_pattern_is_materialised(op: str) -> None:
    """No layer needs index arithmetic, and nothing has the size of a dense pattern."""
    for spec in RESNET.values():
        source = tnconv.compile(spec, op).source
        assert "arange" not in source and "new_zeros" not in source and "torch.ones" not in source, source


HOSTILE = (
    "lambda",
    "torch",
    "F",
    "rt",
    "def",
    "None",
    "match",
    "print",
    "int",
    "N",
    "x_windows",
    "result",
    "float",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_of_the_ir_is_harmless(name: str) -> None:
    """As network, argument, index and size symbol."""
    i1, o1, k1 = Index("i1", 5), Index(name, 3), Index("k1", 3)
    n = Index("n", symbol(name))
    nodes = (
        Tensor(name, "input", (group(n), group(i1))),
        Tensor("weight", "parameter", (group(k1),)),
        pattern("p1", i1, ((1, o1), (1, k1)), 0),
    )
    network = Network(name, nodes, (group(n), group(o1)))
    for table in tables().values():
        program = lower_with(make_plan(network), table, {name: 2})
        x, weight = torch.randn(2, 5), torch.randn(3)
        want = torch.nn.functional.conv1d(x[:, None], weight[None, None])[:, 0]
        got = program.function(x, weight) if program.arguments[0] == name else program.function(weight, x)
        torch.testing.assert_close(got, want)


def test_traceback_shows_the_line() -> None:
    function = tnconv.compile(tnconv.ConvSpec(2, 2, 3, (5, 5)), "forward").program.function
    with pytest.raises(RuntimeError) as caught:
        function(torch.zeros(1, 3, 5, 5), torch.zeros(2, 2, 3, 3))
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert "F.conv2d(x, weight" in (frame.line or "")
    assert frame.filename.startswith("<tnconv conv2d_forward")
    linecache.checkcache()
    assert linecache.getline(frame.filename, frame.lineno or 0).strip() == frame.line


def generated_files() -> set[str]:
    return {name for name in linecache.cache if name.startswith("<tnconv ")}


@pytest.mark.parametrize(
    "options",
    [{}, {"training": True}, {"constant": ["x"]}, {"memory_limit": "4KiB"}, {"passes": "none"}],
    ids=str,
)
@pytest.mark.usefixtures("anew")
def test_lines_are_kept_as_long_as_their_function(options: dict[str, Any]) -> None:
    def made(width: int) -> tnconv.CompiledFunction:
        return tnconv.compile(tnconv.ConvSpec(2, 3, 3, (7, width)), "ggn_diagonal", **options)

    gc.collect()
    before = generated_files()
    held, same = made(5), made(5)  # one source, two functions
    own = generated_files() - before
    assert own
    del same
    for width in (6, 7):  # each is dropped for the next
        made(width)
    gc.collect()
    kept = generated_files() - before
    assert kept and kept < own
    texts = {"".join(linecache.getlines(name)).strip() for name in kept}
    assert held.source.split("\n\n")[-1].strip() in texts
    del held
    gc.collect()
    assert generated_files() == before


@pytest.mark.usefixtures("anew")
def test_names_do_not_depend_on_the_order_of_compilation() -> None:
    spec = tnconv.ConvSpec(2, 2, 3, (5, 5))
    before = tnconv.compile(spec, "kfac_expand").source
    for op in OPERATIONS:
        tnconv.compile(spec, op)
    assert tnconv.compile(spec, "kfac_expand").source == before


# -- the table ---------------------------------------------------------------------------------------


def test_table_without_a_last_resort() -> None:
    plan = make_plan(tnconv.ConvSpec(2, 2, 3, (5, 5)).network())
    with pytest.raises(LoweringError, match="no kernel accepts this step"):
        lower_with(plan, {}, {})


def test_entry_that_is_no_kernel() -> None:
    register(KERNELS, "nonsense", "not a kernel".upper)
    try:
        with pytest.raises(PluginError, match=r"kernel 'nonsense' is .* which is not a Kernel"):
            network = tnconv.ConvSpec(2, 2, 3, (5, 5)).network()
            backend_of("torch").lower(make_plan(network), network, How())
    finally:
        unregister(KERNELS, "nonsense")


def test_kernels_of_every_pipeline() -> None:
    """The program without rewriting has the same value, if not the same kernels."""
    network = tnconv.ConvSpec(4, 4, 1, (6, 6), stride=2, batch_size=2).network()
    plain = make_plan(network)
    rewritten, _ = Pipeline.parse("default").run(network)
    for plan in (plain, make_plan(rewritten)):
        assert_program(backend_of("torch").lower(plan, network, How()), network)


def test_an_outer_product_is_in_the_order_of_the_output() -> None:
    """So that it is not copied behind; an operand lacks an index in front, between its own, or behind."""
    plan = parse_plan("""plan outer {
      argument x [N, 3, 4]
      argument y [N, 5]
      index [n=N, c=3, d=5, o=4]
      result[n, c, d, o] = x[n, c, o] * y[n, d]
      return result
    }""")
    program = lower_with(plan, kernel_table(), {}, ("matmul",))
    assert "permute" not in program.source
    x, y = torch.randn(2, 3, 4), torch.randn(2, 5)
    torch.testing.assert_close(program.function(x, y), torch.einsum("nco,nd->ncdo", x, y))
    turned = parse_plan(format_plan(plan).replace("result[n, c, d, o] =", "result[d, o, c, n] ="))
    program = lower_with(turned, kernel_table(), {}, ("matmul",))
    torch.testing.assert_close(program.function(x, y), torch.einsum("nco,nd->docn", x, y))
