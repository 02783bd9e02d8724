"""What became of a check: accepted, refused for a reason that is known, or failed; and how they are counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"

# Roundings that a result may be off by, of the sum of the absolute values of its terms: a few hundred terms in
# float32 and float64, which PyTorch and tnconv add up in different orders; one for the inputs and one for the result in
# dtypes that are added up in a wider one.
ROUNDINGS = {torch.bfloat16: 3, torch.float16: 3}
_MANY = 32


@dataclass(frozen=True)
class Outcome:
    """One check of one case.

    Args:
        name: of the function or module.
        check: what was checked, such as `"value float32"`.
        state: accepted, refused or failed.
        text: the reason of a refusal, or what went wrong.
    """

    name: str
    check: str
    state: str
    text: str = ""


def assert_near(got: Tensor, want: Tensor, bound: Tensor, what: str = "") -> None:
    """Compare values whose errors follow from the arithmetic.

    Args:
        got: the value of tnconv.
        want: that of PyTorch, of the same dtype.
        bound: in every cell the sum of the absolute values of the terms, in float64.
        what: is compared, for the message.

    Raises:
        AssertionError: shape, dtype or values differ.
    """
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, PyTorch has {tuple(want.shape)}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, PyTorch has {want.dtype}"
    assert got.device == want.device, f"{what}: on {got.device}, PyTorch on {want.device}"
    wide = torch.complex128 if want.dtype.is_complex else torch.float64
    error = (got.detach().to(wide) - want.detach().to(wide)).abs()
    allowed = ROUNDINGS.get(want.dtype, _MANY) * torch.finfo(want.dtype).eps * bound.detach()
    worst = (error - allowed).max().item() if error.numel() else 0.0
    assert worst <= 0, f"{what}: {error.max().item():.3g} off, {allowed.max().item():.3g} allowed"


def summary(outcomes: Iterable[Outcome]) -> str:
    """A table with one line a name, the reasons of refusals with their counts, and every failure."""
    found = list(outcomes)
    counts = Counter((each.name, each.state) for each in found)
    names = list(dict.fromkeys(each.name for each in found))
    width = max(map(len, names), default=4)
    lines = [f"{'':{width}}  {ACCEPTED:>8}  {REFUSED:>8}  {FAILED:>8}"]
    for name in names:
        lines.append(
            f"{name:{width}}  " + "  ".join(f"{counts[name, s]:8}" for s in (ACCEPTED, REFUSED, FAILED))
        )
    totals = Counter(each.state for each in found)
    lines.append(f"{'all':{width}}  " + "  ".join(f"{totals[s]:8}" for s in (ACCEPTED, REFUSED, FAILED)))
    for text, count in Counter(each.text for each in found if each.state == REFUSED).most_common():
        lines.append(f"refused {count}: {text}")
    lines += [f"FAILED {each.name}, {each.check}: {each.text}" for each in found if each.state == FAILED]
    return "\n".join(lines)
