"""The table of contexts: one row a way in which torch looks at a call, one column a way to compute with tnconv.

Each cell runs what torch does there and compares with the eager value or gradient; eager calls before and after are
the same, so that nothing that was kept belongs to the context.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from tests.contexts.subjects import Subject, subjects

Tensors = tuple[Tensor, ...]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def same_gradients(subject: Subject, call: Callable[..., Tensor]) -> None:
    for got, want in zip(subject.gradients(call), subject.gradients(), strict=True):
        close(got, want)


def under_checkpoint(subject: Subject) -> None:
    same_gradients(subject, lambda *t: checkpoint(subject.call, *t, use_reentrant=False))


def under_reentrant_checkpoint(subject: Subject) -> None:
    leaves = subject.leaves()
    checkpoint(subject.call, *leaves, use_reentrant=True).square().sum().backward()
    got = [leaf.grad for leaf in (*leaves, *subject.parameters())]
    for parameter in subject.parameters():
        parameter.grad = None
    for mine, want in zip(got, subject.gradients(), strict=True):
        close(mine, want)


def under_save_on_cpu(subject: Subject) -> None:
    def call(*tensors: Tensor) -> Tensor:
        with save_on_cpu():
            return subject.call(*tensors)

    same_gradients(subject, call)


def under_inference_mode(subject: Subject) -> None:
    with torch.inference_mode():
        got = subject.call(*subject.tensors)
    close(got.clone(), subject.value())


def under_fake_tensor_mode(subject: Subject) -> None:
    want = subject.value()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        leaves = [mode.from_tensor(t).requires_grad_() for t in subject.tensors]
        got = subject.call(*leaves)
        gradients = torch.autograd.grad(got.sum(), leaves)
    assert isinstance(got, FakeTensor) and all(isinstance(g, FakeTensor) for g in gradients)
    assert (got.shape, got.dtype, got.device) == (want.shape, want.dtype, want.device)


def under_make_fx(subject: Subject, mode: str = "real") -> None:
    graph = make_fx(subject.call, tracing_mode=mode, _allow_non_fake_inputs=True)(*subject.tensors)
    close(graph(*subject.tensors), subject.value())


def under_make_fx_with_fakes(subject: Subject) -> None:
    under_make_fx(subject, "fake")


def gradients_under_make_fx(subject: Subject) -> None:
    places = tuple(range(len(subject.tensors)))
    by_all = torch.func.grad(lambda *t: subject.call(*t).square().sum(), argnums=places)
    graph = make_fx(by_all)(*subject.tensors)
    for got, want in zip(graph(*subject.tensors), by_all(*subject.tensors), strict=True):
        close(got, want)


def under_symbolic_trace(subject: Subject) -> None:
    traced = torch.fx.symbolic_trace(TWICE[len(subject.tensors)](subject.call))
    close(traced(*subject.tensors), subject.value() * 2)
    close(copy.deepcopy(traced)(*subject.tensors), subject.value() * 2)


def under_jit_trace(subject: Subject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Layers are traced for every size; programs may say that a size was looked at.
        warnings.simplefilter("error" if subject.free else "ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(subject.call, subject.tensors)
    close(traced(*subject.tensors), subject.value())
    if subject.free:
        others = subject.larger(batch=True, image=True)
        close(traced(*others), subject.call(*others))


def under_functional_call(subject: Subject) -> None:
    if isinstance(subject.call, nn.Module):
        twice = {name: 2 * p for name, p in subject.call.named_parameters()}
        other = copy.deepcopy(subject.call)
        other.load_state_dict(twice)
        close(torch.func.functional_call(subject.call, twice, subject.tensors), other(*subject.tensors))


def under_linearize(subject: Subject) -> None:
    value, push = torch.func.linearize(subject.call, *subject.tensors)
    close(value, subject.value())
    close(push(*subject.tensors), torch.func.jvp(subject.call, subject.tensors, subject.tensors)[1])


def under_forward_mode(subject: Subject) -> None:
    """Twice: what is kept after the first call has no tangents."""
    want = torch.func.jvp(subject.call, subject.tensors, subject.tensors)[1]
    for _ in range(2):
        subject.value()
        with forward_ad.dual_level():
            got = subject.call(*[forward_ad.make_dual(t, t) for t in subject.tensors])
            close(forward_ad.unpack_dual(got).tangent, want)


def under_autocast(subject: Subject) -> None:
    call = copy.deepcopy(subject.call).float() if isinstance(subject.call, nn.Module) else subject.call
    singles = [t.float() for t in subject.tensors]
    for given in (singles, [singles[0], *(t.bfloat16() for t in singles[1:])]):
        leaves = [t.requires_grad_() for t in given]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = call(*leaves)
        want = subject.value()
        assert (got.double() - want).abs().max() <= 0.05 * want.abs().max()
        gradients = torch.autograd.grad(got.float().square().sum(), leaves)
        assert [g.dtype for g in gradients] == [t.dtype for t in leaves]


def as_a_copy(subject: Subject) -> None:
    """Pickled, saved, copied: what is no plain function of Python."""
    if isinstance(subject.call, (nn.Module, type(subjects()[0].call))):
        buffer = io.BytesIO()
        torch.save(nn.Sequential(nn.Identity(), Holder(subject.call)), buffer)
        buffer.seek(0)
        saved = torch.load(buffer, weights_only=False)[1].call
        for other in (pickle.loads(pickle.dumps(subject.call)), copy.deepcopy(subject.call), saved):
            close(other(*subject.tensors), subject.value())
            for got, want in zip(subject.gradients(other, other), subject.gradients(), strict=True):
                close(got, want)


def through_a_state_dict(subject: Subject) -> None:
    if isinstance(subject.call, nn.Module):
        other = copy.deepcopy(subject.call)
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        other.load_state_dict(subject.call.state_dict())
        close(other(*subject.tensors), subject.value())


def on_the_meta_device(subject: Subject) -> None:
    call = copy.deepcopy(subject.call).to("meta") if isinstance(subject.call, nn.Module) else subject.call
    leaves = [t.to("meta").requires_grad_() for t in subject.tensors]
    got = call(*leaves)
    assert got.is_meta and got.shape == subject.value().shape
    assert all(g.is_meta for g in torch.autograd.grad(got.sum(), leaves))


class Holder(nn.Module):
    """A module that has a function."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call


class TwiceOne(Holder):
    """`torch.fx` takes no `*tensors`."""

    def forward(self, a: Tensor) -> Tensor:
        return self.call(a) * 2


class TwiceTwo(Holder):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.call(a, b) * 2


class TwiceThree(Holder):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.call(a, b, c) * 2


TWICE = {1: TwiceOne, 2: TwiceTwo, 3: TwiceThree}
CONTEXTS = (
    under_checkpoint, under_reentrant_checkpoint, under_save_on_cpu, under_inference_mode, under_fake_tensor_mode,
    under_make_fx, under_make_fx_with_fakes, gradients_under_make_fx, under_symbolic_trace, under_jit_trace,
    under_functional_call, under_linearize, under_forward_mode, under_autocast, as_a_copy, through_a_state_dict,
    on_the_meta_device,
)  # fmt: skip


FEW = ("kfac_reduce", "ggn_diagonal", "Conv2d", "CPConv2d", "TuckerConv2d", "einsum")
SLOW = (gradients_under_make_fx, under_make_fx_with_fakes, under_linearize)
CELLS = [(c, s) for c in CONTEXTS for s in subjects() if c not in SLOW or s.name in FEW]


@pytest.mark.parametrize(
    ("context", "subject"), CELLS, ids=lambda part: getattr(part, "__name__", None) or part.name
)
def test_cell(context: Callable[[Subject], None], subject: Subject) -> None:
    before, gradients = subject.value(), subject.gradients()
    context(subject)
    after = subject.value()
    assert type(after) is Tensor
    close(after, before)
    for got, want in zip(subject.gradients(), gradients, strict=True):
        close(got, want)
