"""The rows of the table that take a second each: all columns are traced or compiled at once, as parts of one model."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import tnconv
from tests.contexts.subjects import Subject, named, normal, subjects
from tnconv.errors import ArgumentError

FREE = [each for each in subjects() if each.free]


class Model(nn.Module):
    """Some subjects as one module, of the arguments of all of them."""

    def __init__(self, parts: Sequence[Subject]) -> None:
        super().__init__()
        self.calls = [each.call for each in parts]
        self.modules_of = nn.ModuleList([c for c in self.calls if isinstance(c, nn.Module)])
        self.counts = [len(each.tensors) for each in parts]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        values, rest = [], list(tensors)
        for call, count in zip(self.calls, self.counts, strict=True):
            values.append(call(*rest[:count]))
            rest = rest[count:]
        return values


def arguments(parts: Sequence[Subject], **larger: bool) -> tuple[Tensor, ...]:
    return tuple(t for each in parts for t in each.larger(**larger))


def check(got: Sequence[Tensor], parts: Sequence[Subject], **larger: bool) -> None:
    for value, each in zip(got, parts, strict=True):
        torch.testing.assert_close(value, each.call(*each.larger(**larger)), rtol=1e-9, atol=1e-9)
        assert type(each.value()) is Tensor


def test_export() -> None:
    parts = named("training", "constant", "conv2d", "ConvTranspose2d", "TuckerConv2d", "conv_einsum")
    program = torch.export.export(Model(parts), arguments(parts)).module()
    check(program(*arguments(parts)), parts)


def test_export_with_a_dynamic_batch() -> None:
    # A loop over chunks of the batch is written out in a graph, which has one number of them.
    parts = [each for each in subjects() if not getattr(getattr(each.call, "plan", None), "slices", ())]
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple(
        {axis: batch for p, axis in each.batched if p == n}
        for each in parts
        for n in range(len(each.tensors))
    )
    program = torch.export.export(Model(parts), arguments(parts), dynamic_shapes=(shapes,)).module()
    for larger in ({}, {"batch": True}):
        check(program(*arguments(parts, **larger)), parts, **larger)


def test_export_with_dynamic_height_and_width() -> None:
    auto = torch.export.Dim.AUTO
    shapes = tuple(
        {0: auto, 2: auto, 3: auto} if n == 0 else {} for each in FREE for n in range(len(each.tensors))
    )
    program = torch.export.export(Model(FREE), arguments(FREE), dynamic_shapes=(shapes,)).module()
    for larger in ({}, {"batch": True, "image": True}):
        check(program(*arguments(FREE, **larger)), FREE, **larger)


def test_strict_export() -> None:
    parts = named("kfac_reduce", "CPConv2d")
    program = torch.export.export(Model(parts), arguments(parts), strict=True).module()
    check(program(*arguments(parts)), parts)


def test_make_fx_with_symbolic_sizes() -> None:
    parts = named("training", "kfac_reduce", "conv2d", "CPConv2d", "einsum")
    graph = make_fx(Model(parts), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments(parts))
    check(graph(*arguments(parts)), parts)


def gradients(call: nn.Module, parts: Sequence[Subject]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    leaves = [t.clone().requires_grad_() for t in arguments(parts)]
    values = call(*leaves)
    return values, torch.autograd.grad(sum(v.square().sum() for v in values), leaves)


def test_compile() -> None:
    parts = named("training", "kfac_expand", "ggn_diagonal", "CPConv2d")
    torch._dynamo.reset()
    model = Model(parts)
    values, got = gradients(torch.compile(model, backend="aot_eager", fullgraph=True), parts)
    check(values, parts)
    for mine, want in zip(got, gradients(model, parts)[1], strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-9, atol=1e-9)


def test_inductor() -> None:
    """One small function, without gradients: a C++ compiler takes seconds for each kernel."""
    (part,) = named("kfac_reduce")
    torch._dynamo.reset()
    check([torch.compile(part.call, fullgraph=True)(*part.tensors)], [part])


@pytest.mark.parametrize("call", [tnconv.functional.convNd, tnconv.functional.foldNd])
def test_what_torch_cannot_trace_for_all_sizes_is_refused(call) -> None:
    """Torch has convolutions of up to three dimensions, and folds a plane."""
    if call is tnconv.functional.convNd:
        x, w, say = normal(1, 2, 3, 3, 3, 3), normal(2, 2, 2, 2, 2, 2), "no convolution of 4 dimensions"
        model = lambda x: call(x, w)  # noqa: E731
    else:
        x, say = normal(1, 8 * 2, 8), "no fold of 3 dimensions"
        model = lambda x: call(x, (3, 3, 3), 2)  # noqa: E731

    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x)

    auto = dict.fromkeys(range(1, x.dim()), torch.export.Dim.AUTO)
    with pytest.raises(ArgumentError, match=f"torch has {say}"):
        torch.export.export(One(), (x,), dynamic_shapes=(auto,))
