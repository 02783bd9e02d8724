"""A function for every size under tracers: of one size where that is known, of all where it is left open."""

import pytest
import torch
import torch._dynamo.exc
import torch._dynamo.testing
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import tnconv
from tnconv.errors import ArgumentError, LoweringError

CONV = nn.Conv2d(4, 6, 3, stride=2, padding=1)
IMAGES = [torch.randn(2, 4, *size) for size in ((9, 8), (10, 12), (33, 7), (3, 5))]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.function = CONV, tnconv.compile(CONV)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.conv.weight, bias=self.conv.bias)


class Factor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = tnconv.compile(CONV, "kfac_reduce")

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def factor(x: Tensor) -> Tensor:
    return tnconv.compile(CONV, "kfac_reduce", input_size=tuple(x.shape[2:]))(x)


@pytest.mark.parametrize(("dynamic", "graphs"), [(True, 1), (False, 4)])
def test_torch_compile_has_one_graph_for_all_sizes_or_one_for_each(dynamic: bool, graphs: int) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(Layer(), fullgraph=True, dynamic=dynamic, backend=counter)
    for x in IMAGES:
        assert torch.allclose(compiled(x), CONV(x), atol=1e-5)
    assert counter.frame_count == graphs


@pytest.mark.parametrize(("module", "want"), [(Layer(), CONV), (Factor(), factor)], ids=["layer", "factor"])
def test_export_with_dynamic_sizes(module: nn.Module, want: nn.Module) -> None:
    sizes = {"x": {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    program = torch.export.export(module, (IMAGES[0],), dynamic_shapes=sizes, strict=False).module()
    for x in IMAGES:
        assert torch.allclose(program(x), want(x), atol=1e-5)


def test_traces_with_and_without_open_sizes() -> None:
    layer = Layer()
    fixed = make_fx(layer)(IMAGES[0])
    symbolic = make_fx(layer, tracing_mode="symbolic", _allow_non_fake_inputs=True)(IMAGES[0])
    assert torch.allclose(fixed(IMAGES[0]), CONV(IMAGES[0]), atol=1e-5)
    traced = torch.jit.trace(layer, (IMAGES[0],), check_trace=False)
    for x in IMAGES:
        assert torch.allclose(symbolic(x), CONV(x), atol=1e-5)
        assert torch.allclose(traced(x), CONV(x), atol=1e-5)


def test_what_no_shape_tells_is_refused_by_name() -> None:
    class Back(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = tnconv.compile(nn.Conv1d(2, 2, 3, stride=2), "input_vjp")

        def forward(self, dy: Tensor) -> Tensor:
            return self.function(torch.ones(2, 2, 3), dy)

    with pytest.raises(LoweringError, match="leaves L of 'input_vjp' open, but the shapes of its arguments"):
        make_fx(Back(), tracing_mode="symbolic")(torch.randn(2, 2, 5))


def _by_dynamo(function: object, *given: Tensor) -> object:
    return torch.compile(function.__call__, backend="eager", fullgraph=True, dynamic=True)(*given)  # type: ignore[operator]


def _by_export(function: object, *given: Tensor) -> object:
    class Module(nn.Module):
        def forward(self, *a: Tensor) -> object:
            return function(*a)  # type: ignore[operator]

    return torch.export.export(Module(), given, strict=False).module()(*given)


def _by_make_fx(function: object, *given: Tensor) -> object:
    return make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given)(*given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trace", "op", "shapes", "message"),
    [
        (
            _by_dynamo,
            "kfac_expand",
            [(2, 4, 10, 9)],
            r"'x' has size 10 on axis 2 \(index i1\) but 9 is needed",
        ),
        (_by_export, "kfac_expand", [(4, 9, 10)], r"'x' has size 10 on axis 3 \(index i2\) but 9 is needed"),
        (_by_make_fx, "weight_vjp", [(2, 4, 9, 9), (3, 6, 5, 5)], r"'grad_output' has size 3 on axis 0"),
        (_by_export, ("unfold", "kfac_reduce"), [(2, 4, 9, 8)], r"'x' has size 8 on axis 3"),
    ],
)
def test_other_sizes_are_refused_while_a_tracer_looks_on(
    trace, op: str | tuple[str, ...], shapes: list[tuple[int, ...]], message: str
) -> None:
    """Where they are not, a strided layer computes something else in silence."""
    torch._dynamo.reset()
    function = tnconv.compile(CONV, op, input_size=(9, 9))
    with pytest.raises((ArgumentError, torch._dynamo.exc.Unsupported), match=message):
        trace(function, *map(torch.randn, shapes))
