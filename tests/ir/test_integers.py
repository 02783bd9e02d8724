"""Integers: whoever made them, they are read alike wherever tnconv takes one; what is none is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, SpecError, TnconvError, UnfoldSpec
from tnconv import functional as TF
from tnconv import nn as tnn
from tnconv.ir import Index, as_integer
from tnconv.passes.batch import Batch
from tnconv.passes.output_axes import Flatten

KINDS: dict[str, Callable[[int], Any]] = {
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "array": np.array,
    "tensor": torch.tensor,
    "int32 tensor": lambda n: torch.tensor(n, dtype=torch.int32),
}
NONE = (
    True, np.True_, torch.tensor(True), 2.0, np.float64(2), torch.tensor(2.0), np.array(2.0), 2j, "two", b"2",
    torch.tensor([2]), np.array([2]), torch.tensor(2, device="meta"), object(), int,
)  # fmt: skip

X, X1 = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9)
W, W1 = torch.randn(4, 2, 2, 2), torch.randn(4, 2, 2)
COLUMNS = torch.randn(2, 16, 12)
FUNCTION = tnconv.compile(ConvSpec(4, 4, 2, 5), "weight_vjp")


def fields(layer: nn.Module) -> str:
    return f"{layer}, {[tuple(p.shape) for p in layer.parameters()]}"


# A way to hand an integer over, and a value that depends on it; every parameter that is one, with 2 in its place.
PLACES: dict[str, Callable[[Any], Any]] = {
    "spec channels": lambda n: ConvSpec(n, 4, 2, (5, 5)),
    "spec out_channels": lambda n: ConvSpec(4, n, 2, (5, 5)),
    "spec kernel_size": lambda n: ConvSpec(4, 4, n, (5, 5)),
    "spec kernel_size in a tuple": lambda n: ConvSpec(4, 4, (n, n), (5, 5)),
    "spec kernel_size in a list": lambda n: ConvSpec(4, 4, [n, 3], (5, 5)),
    "spec input_size": lambda n: ConvSpec(4, 4, 2, (5, n)),
    "spec batch_size": lambda n: ConvSpec(4, 4, 2, 5, batch_size=n),
    "spec stride": lambda n: ConvSpec(4, 4, 2, (5, 5), stride=n),
    "spec stride for all": lambda n: ConvSpec(4, 4, 2, (5, 5), stride=(n,)).strides,
    "spec padding": lambda n: ConvSpec(4, 4, 2, (5, 5), padding=n),
    "spec padding for all": lambda n: ConvSpec(4, 4, 2, (5, 5), padding=[n]).paddings,
    "spec padding pairs": lambda n: ConvSpec(4, 4, 2, (5, 5), padding=((n, 1), (0, n))),
    "spec dilation": lambda n: ConvSpec(4, 4, 2, (5, 5), dilation=(1, n)),
    "spec groups": lambda n: ConvSpec(4, 4, 2, (5, 5), groups=n),
    "transposed spec": lambda n: ConvTransposeSpec(n, n, n, (5, n), stride=3, padding=n, output_padding=n, groups=n),
    "linear spec": lambda n: LinearSpec(n, n, input_size=(n, 3), batch_size=n),
    "pooling spec": lambda n: PoolSpec(n, n, (5, n), stride=n, padding=(1, 1), divisor=n, batch_size=n),
    "unfolding spec": lambda n: UnfoldSpec(n, n, (5, 6), stride=n, padding=n, dilation=n, batch_size=n),
    "module input_size": lambda n: tnconv.compile(nn.Conv1d(4, 4, 2), "unfold", input_size=n).spec,
    "conv stride": lambda n: TF.conv2d(X, W, stride=n, groups=2),
    "conv stride in a tuple": lambda n: TF.conv2d(X, W, stride=(n, 1), groups=2),
    "conv stride for all": lambda n: TF.conv2d(X, W, stride=[n], groups=2),
    "conv padding": lambda n: TF.conv2d(X, W, padding=n, groups=2),
    "conv dilation": lambda n: TF.convNd(X, W, dilation=n, groups=2),
    "conv groups": lambda n: TF.conv1d(X1, W1, groups=n),
    "conv_transpose": lambda n: TF.conv_transpose2d(X, W, None, 3, n, n, n, n),
    "conv_transpose in tuples": lambda n: TF.conv_transpose2d(X, W, None, (3,), (n,), (n,), n, (n,)),
    "unfold": lambda n: TF.unfoldNd(X, n, n, n, n),
    "unfold in tuples": lambda n: TF.unfoldNd(X, (n, n), (n,), [n], n),
    "fold": lambda n: TF.foldNd(COLUMNS, (4, 5), n),
    "fold output_size": lambda n: TF.foldNd(torch.ones(2, 4, 3), (n, 4), 2),
    "pooling": lambda n: TF.avg_poolNd(X, n, n, 1, divisor_override=n),
    "pooling in tuples": lambda n: TF.avg_poolNd(X, (n, n), (n,), [1]),
    "module N": lambda n: fields(tnn.ConvNd(n, 4, 4, 3)),
    "module sizes": lambda n: fields(tnn.Conv2d(n, n, n, n, n, n, n)),
    "module sizes for all": lambda n: fields(tnn.Conv2d(4, 4, 3, (n,), (n,), (n,))),
    "transposed module": lambda n: fields(tnn.ConvTranspose2d(n, n, n, 3, n, n, n)),
    "output_size": lambda n: torch.tensor(tnn.ConvTranspose1d(4, 4, 2)(X1[..., :1], output_size=(n,)).shape),
    "unfold module": lambda n: tnn.UnfoldNd(n, n, n, n)(X),
    "fold module": lambda n: tnn.FoldNd((4, 5), n)(COLUMNS),
    "einsum size": lambda n: tnconv.einsum("c 2*h+k, c k -> h", X1[0], W1[0, :, 0].repeat(2)[:, None], h=n),
    "einsum shape": lambda n: str(tnconv.einsum_expression("i j -> j i", (n, 3)).network),
    "conv_einsum": lambda n: tnconv.conv_einsum("ch,ch->h|h", X1[0], X1[1, :, :2], mode="pad", stride=n, padding=n, dilation=n),
    "conv_einsum by letter": lambda n: tnconv.conv_einsum("ch,ch->h|h", X1[0], X1[1], stride={"h": n}),
    "conv_einsum dilations": lambda n: tnconv.conv_einsum("h,h->h|h", X1[0, 0], X1[0, 0, :2], mode="pad", dilation=[n]),
    "cost": lambda n: FUNCTION.cost.at(N=n),
    "bind": lambda n: str(FUNCTION.network.bind({"N": n})),
    "to_einsum": lambda n: tnconv.to_einsum(FUNCTION, N=n).shape,
    "index": lambda n: Index("i", n),
    "pass": lambda n: (str(Flatten(start=n)), str(Batch("v", size=n))),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_integers_are_read_alike(place: str, kind: str) -> None:
    want, got = PLACES[place](2), PLACES[place](KINDS[kind](2))
    if isinstance(want, torch.Tensor):
        assert torch.equal(got, want)
    else:
        assert got == want and repr(got) == repr(want)


KEYS = (
    "conv stride in a tuple",
    "conv stride for all",
    "unfold in tuples",
    "fold output_size",
    "pooling in tuples",
)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_integer_is_refused(place: str) -> None:
    for value in NONE:
        if isinstance(value, str) and place in (
            "module input_size",
            "spec batch_size",
            "spec channels",
            "spec groups",
            "spec input_size",
            "spec kernel_size",
            "spec kernel_size in a list",
            "spec kernel_size in a tuple",
            "spec out_channels",
            "linear spec",
            "pooling spec",
            "unfolding spec",
        ):
            continue  # the name of a symbol
        if isinstance(value, str) and place in ("einsum shape", "index", "pass"):
            continue
        if place in KEYS and isinstance(value, float | bool | np.bool_):
            continue  # what is equal to a tuple of integers finds what was compiled for these
        with pytest.raises(TnconvError, match=r";"):
            PLACES[place](value)


@pytest.mark.parametrize("value", NONE, ids=lambda value: "object" if type(value) is object else repr(value))
def test_no_integers(value: object) -> None:
    assert as_integer(value) is None


def test_a_tensor_that_changes() -> None:
    """What is kept of a call does not hang on the tensor, but on its value then."""
    stride = torch.tensor(2)
    for value in (2, 1, 3):
        stride.fill_(value)
        for given in (stride, (stride, stride)):
            assert torch.equal(
                TF.conv2d(X, W, stride=given, groups=2), TF.conv2d(X, W, stride=value, groups=2)
            )
        got = tnconv.einsum("c 2*h+k, c k -> h", X1[0], W1[0, :, 0].repeat(2)[:, None], h=stride)
        assert got.shape == (value,)


SEQUENCES = {
    "conv2d": lambda F, s, p, d: F.conv2d(X, W, None, s, p, d, 2),
    "conv_transpose2d": lambda F, s, p, d: F.conv_transpose2d(X, W, None, s, p, p, 2, d),
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("form", [lambda n: (n,), lambda n: [n], lambda n: (n, n), lambda n: n])
def test_sequences_as_torch_takes_them(name: str, form: Callable[[int], Any]) -> None:
    """A sequence of one is for all dimensions; the example of the list of faults."""
    call = SEQUENCES[name]
    torch.testing.assert_close(
        call(TF, form(2), form(1), form(2)), call(nn.functional, form(2), form(1), form(2))
    )
    with pytest.raises(SpecError, match=r"stride \(1, 1, 1\) has length 3 but the layer has 2 spatial"):
        call(TF, (1, 1, 1), 1, 1)


def test_modules_with_sequences_of_one() -> None:
    for layer in (
        nn.Conv2d(4, 4, 3, stride=(2,), padding=(1,), dilation=(2,)),
        nn.ConvTranspose2d(4, 2, 3, (2,)),
    ):
        parameters = list(layer.parameters())
        got = tnconv.compile(layer, input_size=(9, 8))(X, *parameters)
        torch.testing.assert_close(got, layer(X))
        copied: Any = getattr(tnn, type(layer).__name__)
        torch.testing.assert_close(copied.from_torch(layer)(X), layer(X))
    pool = nn.AvgPool2d((3,), (2,))  # type: ignore[arg-type]
    torch.testing.assert_close(tnconv.compile(pool, input_size=(9, 8))(X), pool(X))
