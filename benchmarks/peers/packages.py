"""The packages' own kernels of one layer, called on tensors through the adapters of `tests/peers`.

No model, hooks, forward or backward pass is timed: BackPACK's derivatives and extensions are called as its backward
pass would, curvlinops' accumulation hook on an input, singd's preparation of an input and its product. The scale of a
factor is compared up to the package's own constant.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.peers.base import Peer, Problem

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "peers"))


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def backpack(p: Problem) -> list[Peer]:
    """Every operation but the forward pass and kfac_reduce; factors without groups only."""
    import peer_backpack as b  # noqa: PLC0415 - an optional package

    layer, x, grad, z = p.make_layer(bias=p.op == "bias_vjp"), p.x, p.grad, p.z
    positions = p.case.positions
    calls: dict[str, Callable[[], Tensor]] = {
        "input_vjp": lambda: b.input_vjp(layer, x, grad),
        "weight_vjp": lambda: b.weight_vjp(layer, x, grad),
        "bias_vjp": lambda: b.bias_vjp(layer, x, grad),
        "unfold": lambda: b.unfold(layer, x),
        "per_example_weight_vjp": lambda: b.per_example_weight_vjp(layer, x, grad),
        "ggn_diagonal": lambda: b.ggn_diagonal(layer, x, z),
        "ggn_gram": lambda: b.ggn_gram(layer, x, z),
    }
    if p.case.groups == 1:
        calls["gradient_norm"] = lambda: b.gradient_norm(layer, x, grad)
        calls["kfac_expand"] = lambda: b.input_factor(layer, x)
    else:  # BatchL2Grad is wrong for groups; this is what it does for other parameters
        calls["gradient_norm"] = lambda: b.gradient_norm_by_gradients(layer, x, grad)
    scale = 1 / positions if p.op == "kfac_expand" else 1.0
    return [Peer("backpack", calls[p.op], scale)] if p.op in calls else []


def curvlinops(p: Problem) -> list[Peer]:
    """Factors of the input of images, without groups (it averages them)."""
    if not _plain_factor(p):
        return []
    import peer_curvlinops as c  # noqa: PLC0415 - an optional package

    approximation = p.op.removeprefix("kfac_")
    layer = p.make_layer()
    operator = c.operator(layer, p.batch, approximation)
    return [Peer("curvlinops", lambda: c.input_factor(operator, layer, p.x))]


def singd(p: Problem) -> list[Peer]:
    """Factors of the input of images, without groups (it averages them)."""
    if not _plain_factor(p):
        return []
    import peer_singd as s  # noqa: PLC0415 - an optional package

    approximation = p.op.removeprefix("kfac_")
    layer = p.make_layer()
    return [Peer("singd", lambda: s.input_factor(layer, p.x, approximation))]


def _plain_factor(p: Problem) -> bool:
    return p.op in ("kfac_expand", "kfac_reduce") and p.case.dims == 2 and p.case.groups == 1


PACKAGES: dict[str, Any] = {"backpack": backpack, "curvlinops": curvlinops, "singd": singd}
