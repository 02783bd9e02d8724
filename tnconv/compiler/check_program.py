"""The exact check of a program: itself where the layer is small, and small instances, against the reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tnconv.backends import reference
from tnconv.backends.arrays import Arrays
from tnconv.backends.backend import Program
from tnconv.backends.torch.training import WithBackward
from tnconv.compiler.candidate import Candidate, Task
from tnconv.compiler.choose import fastest
from tnconv.errors import LoweringError, PassError
from tnconv.ir import Expression, evaluate
from tnconv.ir.symmetry import shared_axes
from tnconv.passes.shrink import largest, shrink, whole

_CELLS = 2_000
_INSTANCES = 5
_EXAMPLES = 2  # what each size symbol is where operations are compared
_PLAIN, _ALIKE = 30, 60  # draws of any instances, then of those for the kernels that are missing
_ALIKE_CELLS = 20_000
_LARGEST = 200_000  # cells of a tensor of the layer itself, where that is checked


def check_program(derived: Expression, candidate: Candidate) -> None:
    """Compare the program, and those of small instances, with the reference: lowering is where mistakes hide.

    The program itself runs where the layer is small. The instances use its kernels where these accept them. They are
    drawn until enough have a value that is not all zero, as many patterns of tiny sizes reach nothing, and every kernel
    was used by one; for those that are still missing, instances are drawn that are more like the layer, and all
    their plans are tried.

    Args:
        derived: the network before it is rewritten.
        candidate: what is checked.

    Raises:
        LoweringError: a value differs, or a kernel was used by no instance: what is not checked is not passed.
    """
    with candidate.task.made_by.arrays.exactly():
        _check(derived, candidate, np.random.default_rng(0))


def check_value(derived: Expression, candidate: Candidate) -> bool:
    """Compare the program of a candidate with the value of a network, where that is small.

    Args:
        derived: what the program should compute; size symbols are those of the candidate's network.
        candidate: what is checked.

    Returns:
        Whether it was small.

    Raises:
        LoweringError: a value differs.
    """
    itself = whole(derived, _LARGEST, largest)
    if itself is None:
        return False
    with candidate.task.made_by.arrays.exactly():
        _compare_all(candidate, np.random.default_rng(0), itself[0])
    return True


def _check(derived: Expression, candidate: Candidate, rng: np.random.Generator) -> None:
    kernels, telling = candidate.program.kernels, 0
    missing = kernels - _used(candidate, rng)
    for small, alike in _instances(derived, rng):
        try:
            rewritten, _ = candidate.task.passes.run(small)
            packed = shared_axes(small) if candidate.task.packed is not None else None
            task = replace(candidate.task, network=rewritten, packed=packed)
            made = fastest(task.candidates(missing if alike else kernels))
        except (PassError, LoweringError):  # a pass or a backend may refuse what a small instance has
            continue
        arrays, want = _compare_all(made, rng)
        if np.any(want):
            telling += 1
            missing -= made.program.kernels
            for other in _with_one_of(missing, task) if alike else ():
                _compare(rewritten, other, task.made_by.arrays, arrays, want)
                missing -= other.kernels
        if telling >= _INSTANCES and not missing:
            return
    if missing:
        raise LoweringError(
            f"the program of {derived.name!r} cannot be checked: none of {_PLAIN + _ALIKE} small "
            f"instances with a value other than zero uses {', '.join(sorted(missing))}; compile without verify, or "
            "check a smaller layer"
        )


def _with_one_of(kernels: set[str], task: Task) -> Iterator[Program]:
    """The programs of all candidates that use one of some kernels."""
    if kernels:
        made = (candidate.program for candidate in task.candidates(sorted(kernels)))
        yield from (program for program in made if program.kernels & kernels)


def _used(candidate: Candidate, rng: np.random.Generator) -> set[str]:
    """The kernels that are right in the program itself, also where its value is zero; none where it is too large."""
    itself = whole(candidate.task.network, _LARGEST, largest)
    if itself is None:
        return set()
    _compare_all(candidate, rng, itself[0])
    return candidate.program.kernels


def _compare_all(
    candidate: Candidate, rng: np.random.Generator, instance: Expression | None = None
) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Compare all programs of a candidate, for integers and Gaussian integers.

    Args:
        candidate: what is compared.
        rng: of the integers.
        instance: its network with ints in place of size symbols; left out where it has none.

    Returns:
        The integers, and the value that they give.
    """
    network = instance or candidate.task.network
    # The passes were checked; they may change the value.
    arrays, gaussian = _integers(network.shapes, network.tables, rng)
    packed = candidate.task.packed
    want = reference.lower_triangle(np.asarray(reference.evaluate(network, arrays), dtype=np.float64), packed)
    adding, of, made = candidate.accumulating, candidate.task.made_by.arrays, candidate.executable
    other = reference.lower_triangle(reference.evaluate(network, gaussian), packed)
    for given, value in ((arrays, want), (gaussian, other)):
        _compare(network, made.forward, of, given, value)
        if adding is not None:
            _compare(network, replace(adding, arguments=made.forward.arguments), of, given, value, adds=True)
        if made.backward is not None:
            _compare_backward(network, made.backward, given)
        if made.prologue is not None:
            for _ in range(2):  # what is made, and what is kept
                _compare(network, replace(made.forward, function=made.prologue), of, given, value)
    return arrays, want


def _instances(derived: Expression, rng: np.random.Generator) -> Iterator[tuple[Expression, bool]]:
    """Instances for a check of a program, and whether they are for kernels that the first ones do not use."""
    for _ in range(_PLAIN):
        if found := shrink(derived, rng, _CELLS):
            yield found[0], False
    for _ in range(_ALIKE):
        if found := shrink(derived, rng, _ALIKE_CELLS, alike=True):
            yield found[0], True


def _compare(
    network: Expression,
    program: Program,
    of: Arrays,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    want: np.ndarray[Any, Any],
    *,
    adds: bool = False,
) -> None:
    """Compare the value of a program of a library's arrays, or with `adds` what it adds to a tensor that is there."""
    given = [of.from_numpy(arrays[n]) for n in program.arguments]
    if adds:
        there = of.from_numpy(np.arange(want.size).reshape(want.shape).astype(want.dtype))
        got = of.to_numpy(program.function(*given, there.clone(), -2.0) + 2 * there)
    else:
        got = of.to_numpy(program.function(*given))
    if got.shape != want.shape or not np.allclose(got, want, rtol=1e-9, atol=1e-9):
        raise LoweringError(
            f"the program of a small instance has a value that differs from the reference:\n{network}\n"
            f"{program.source}\nreference {want.ravel()[:8]} ..., program {got.ravel()[:8]} ..."
        )


def _compare_backward(
    network: Expression, function: WithBackward, arrays: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Compare planned gradients with those of autograd, for a cotangent that differs from cell to cell."""
    program = function.program
    tensors = [
        torch.from_numpy(arrays[n]).requires_grad_(n in function.needs_gradient) for n in program.arguments
    ]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    both = []
    for call in (program.function, function):
        value = call(*tensors)
        steps = torch.arange(value.numel(), dtype=torch.float64).sub_(value.numel() // 2).view_as(value)
        cotangent = (torch.complex(steps, 2 * steps) if value.is_complex() else steps).to(value.dtype)
        both.append(torch.autograd.grad(value, wanted, cotangent) if wanted else ())
    for want, got in zip(*both, strict=True):
        if not torch.allclose(want, got, rtol=1e-9, atol=1e-9):
            source = function.source
            raise LoweringError(
                f"a planned gradient of a small instance differs from autograd's:\n{network}\n{source}\n"
                f"autograd {want.flatten()[:8].tolist()} ..., planned {got.flatten()[:8].tolist()} ..."
            )


def _integers(
    shapes: Mapping[str, tuple[int, ...]], tables: Mapping[str, int], rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of small integers, and of Gaussian ones; tables have integers below a size."""

    def drawn() -> dict[str, Any]:
        return {
            name: rng.integers(0, tables[name], size=shape)
            if name in tables
            else rng.integers(-3, 4, size=shape).astype(np.float64)
            for name, shape in shapes.items()
        }

    arrays, imaginary = drawn(), drawn()
    gaussian = {n: a if n in tables else np.asarray(a + 1j * imaginary[n]) for n, a in arrays.items()}
    return arrays, gaussian


def check_joint(candidate: Candidate, parts: Sequence[Candidate], real: bool) -> None:
    """Compare a joint program with those of its operations, each checked by itself, for small integers.

    Args:
        candidate: of the operations together.
        parts: of each alone.
        real: whether values are defined for real arguments only.

    Raises:
        LoweringError: a value differs.
    """
    program, of, plan = candidate.program, candidate.task.made_by.arrays, candidate.plan
    sizes = dict.fromkeys(plan.hints, _EXAMPLES)
    shapes = {name: tuple(evaluate(size, sizes) for size in axes) for name, axes in plan.arguments.items()}
    tables = {name: evaluate(size, sizes) for name, size in plan.tables.items()}
    with of.exactly():
        for given in _integers(shapes, tables, np.random.default_rng(0))[: 1 if real else 2]:
            known = {name: of.from_numpy(array) for name, array in given.items()}
            values: Any = program.function(*[known[name] for name in program.arguments])
            for part, value in zip(parts, values if len(parts) > 1 else [values], strict=True):
                alone = part.program
                want = of.to_numpy(alone.function(*[known[name] for name in alone.arguments]))
                got = of.to_numpy(value)
                if got.shape != want.shape or not np.allclose(got, want, rtol=1e-9, atol=1e-9):
                    raise LoweringError(
                        f"the value of {part.plan.name!r} differs in the joint program:\n{plan}\n{program.source}\n"
                        f"alone {want.ravel()[:8]} ..., joint {got.ravel()[:8]} ..."
                    )
