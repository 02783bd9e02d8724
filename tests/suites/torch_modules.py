"""PyTorch's table of modules, with those of tnconv in place of its own."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from outcomes import ACCEPTED, FAILED, Outcome, assert_near
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import noncontiguous_like

from tnconv import nn as tnn

DTYPES = (torch.float64, torch.float32, torch.complex128)

MODULES: dict[str, type[nn.Module]] = {
    f"nn.{kind.__name__}": kind
    for kind in (
        tnn.Conv1d,
        tnn.Conv2d,
        tnn.Conv3d,
        tnn.ConvTranspose1d,
        tnn.ConvTranspose2d,
        tnn.ConvTranspose3d,
    )
}


def run(
    names: list[str] | None = None, dtypes: tuple[torch.dtype, ...] = DTYPES, every: int = 1
) -> Iterator[Outcome]:
    """All checks of all constructions in the table; `every` as for the operators."""
    table = {info.name: info for info in module_db if info.name in MODULES}
    for name in names or MODULES:
        info = table[name]
        for dtype in dtypes:
            inputs = info.module_inputs_func(info, "cpu", dtype, True, training=True)
            for place, case in enumerate(inputs):
                if place % every == 0:
                    label = f"{str(dtype).removeprefix('torch.')}, construction {place}"
                    yield from _case(info, case, dtype, label)


def _case(info: Any, case: Any, dtype: torch.dtype, label: str) -> Iterator[Outcome]:
    given, called = case.constructor_input, case.forward_input
    theirs = info.module_cls(*given.args, **given.kwargs).to(dtype)
    kwargs = {k: v for k, v in given.kwargs.items() if k not in ("device", "dtype")}
    ours = MODULES[info.name](*given.args, **kwargs).to(dtype)
    checks: dict[str, Callable[[], None]] = {
        "state_dict": lambda: _loaded(ours, theirs),
        "repr": lambda: _same(repr(ours), repr(theirs)),
        "forward and backward": lambda: _passes(ours, theirs, called.args, called.kwargs),
        "strided": lambda: _passes(ours, theirs, [_strided(a) for a in called.args], called.kwargs),
        "pickle": lambda: _copied(pickle.loads(pickle.dumps(ours)), ours, called),
        "deepcopy": lambda: _copied(copy.deepcopy(ours), ours, called),
        "torch.save": lambda: _copied(_saved(ours), ours, called),
        "to": lambda: _converted(ours, theirs, called),
        "meta": lambda: _meta(info, given, called, dtype),
        "from_torch": lambda: _copied(type(ours).from_torch(theirs), ours, called),  # type: ignore[attr-defined]
    }
    for check, run_check in checks.items():
        yield _checked(info.name, f"{check} {label}", run_check)


def _checked(name: str, check: str, run_check: Callable[[], None]) -> Outcome:
    try:
        run_check()
    except Exception as error:  # whatever it is, it is a failure of this case alone
        return Outcome(name, check, FAILED, f"{type(error).__name__}: {str(error)[:300]}")
    return Outcome(name, check, ACCEPTED)


def _same(got: object, want: object) -> None:
    assert got == want, f"{got}, PyTorch has {want}"


def _loaded(ours: nn.Module, theirs: nn.Module) -> None:
    """Keys, shapes and dtypes are the same both ways."""
    _same(*({k: (v.shape, v.dtype) for k, v in m.state_dict().items()} for m in (ours, theirs)))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def _strided(value: Any) -> Any:
    return noncontiguous_like(value) if isinstance(value, Tensor) else value


def _absolute(module: nn.Module) -> nn.Module:
    """The module with absolute values of its parameters in float64."""
    made = copy.deepcopy(module)
    for parameter in made.parameters():
        parameter.data = parameter.data.abs().double()
    return made


def _passes(ours: nn.Module, theirs: nn.Module, args: Any, kwargs: Any) -> None:
    """Value, and gradients of the input and of all parameters."""
    x, *rest = args
    bounding = _absolute(theirs)
    inputs = [x.detach().clone().requires_grad_() for _ in range(2)]
    if not x.is_contiguous():
        inputs = [noncontiguous_like(each.detach()).requires_grad_() for each in inputs]
    bounded = x.detach().abs().double().requires_grad_()
    got, want = ours(inputs[0], *rest, **kwargs), theirs(inputs[1], *rest, **kwargs)
    bound = bounding(bounded, *rest, **kwargs)
    assert_near(got, want, bound, "value")
    grad = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(0))
    leaves = [[leaf, *module.parameters()] for leaf, module in zip(inputs, (ours, theirs), strict=True)]
    found = [torch.autograd.grad(y, each, grad) for y, each in zip((got, want), leaves, strict=True)]
    bounds = torch.autograd.grad(bound, [bounded, *bounding.parameters()], grad.abs().double())
    for place, triple in enumerate(zip(*found, bounds, strict=True)):
        assert_near(*triple, what=f"gradient {place}")


def _value(module: nn.Module, called: Any) -> Tensor:
    with torch.no_grad():
        value: Tensor = module(*called.args, **called.kwargs)
    return value


def _copied(made: nn.Module, ours: nn.Module, called: Any) -> None:
    """The same class and value, and parameters of its own."""
    assert type(made) is type(ours)
    assert torch.equal(_value(made, called), _value(ours, called))
    assert {p.data_ptr() for p in made.parameters()}.isdisjoint(p.data_ptr() for p in ours.parameters())


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    made: nn.Module = torch.load(file, weights_only=False)
    return made


def _converted(ours: nn.Module, theirs: nn.Module, called: Any) -> None:
    """The modules in the other precision."""
    x, *rest = called.args
    other = {torch.float64: torch.float32, torch.float32: torch.float64, torch.complex128: torch.complex64}[
        x.dtype
    ]
    pair = [copy.deepcopy(module).to(other) for module in (ours, theirs)]
    _passes(*pair, [x.detach().to(other), *rest], called.kwargs)


def _meta(info: Any, given: Any, called: Any, dtype: torch.dtype) -> None:
    """Built on the meta device: a shape, no cells."""
    kwargs = {**given.kwargs, "device": "meta", "dtype": dtype}
    args = [a.detach().to("meta") if isinstance(a, Tensor) else a for a in called.args]
    got = MODULES[info.name](*given.args, **kwargs)(*args, **called.kwargs)
    want = info.module_cls(*given.args, **kwargs)(*args, **called.kwargs)
    _same((got.device.type, got.shape, got.dtype), ("meta", want.shape, want.dtype))
