"""A network as one einsum over dense operands, for use with any library that has an einsum.

    equation, operands, shape = to_einsum(network, x, weight)
    y = torch.einsum(equation, *operands).reshape(shape)

Every node is one operand. An argument has an axis for each index of a group such as `(g c)`. A pattern, delta or
selection is a dense 0/1 tensor with an axis an index, so nothing here is as fast or as small as `tnconv.compile`.
What an equation cannot say is an operand of its own, behind the others:

- an affine axis `2*o + k < 225` keeps its one axis, and a dense pattern ties its cells to `o` and `k`;
- an output index on no node has a vector of ones;
- the scale is a scalar.

An operand whose node reads a conjugate is conjugated. Of a network with a real output, the value is the real part of
what an einsum makes of complex operands.

Letters are a-z, then A-Z; from the 53rd index on they are others, which `opt_einsum.contract` reads and the
einsum of torch and of numpy do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import opt_einsum
import torch

from tnconv.backends.bound_symbols import bind_symbols
from tnconv.backends.operand_axes import untied
from tnconv.backends.reference import Array, expand_pattern
from tnconv.backends.signature import Signature
from tnconv.backends.torch.numerics.places import table
from tnconv.backends.torch.tensors import TENSORS
from tnconv.errors import ArgumentError, LoweringError, NetworkError
from tnconv.ir import Axis, Delta, Index, Network, Pattern, Scale, Select, Sum, Tensor, as_integer
from tnconv.ir.monomial import is_expression

_INTEGER = 2**62
_ROUNDING = 2**-8  # of bfloat16, the coarsest dtype that a scale may be rounded to


@dataclass(frozen=True, eq=False)
class EinsumExpression:
    """An equation, its operands and the shape of its result; unpacks into these three.

    Args:
        equation: for any einsum, such as `"abc,dce,fbe->afd"`.
        operands: tensors; shapes in place of the arguments where none were given.
        shape: what the value of the einsum is reshaped to.
        reads: the argument that each operand is, None for those that are constant.
        conjugated: whether each operand is the complex conjugate of the argument.
        real: whether the value is the real part of the einsum's.
        signature: the arguments in the order of a call, in torch's layout.
        factors: what each operand is made from.
    """

    equation: str
    operands: tuple[Any, ...] = field(repr=False)
    shape: tuple[int, ...]
    reads: tuple[str | None, ...]
    conjugated: tuple[bool, ...] = field(repr=False)
    real: bool = field(repr=False)
    signature: Signature = field(repr=False)
    factors: "tuple[_Factor, ...]" = field(repr=False)

    def __iter__(self) -> Iterator[Any]:
        """Equation, operands, shape."""
        return iter((self.equation, self.operands, self.shape))

    @property
    def constants(self) -> tuple[int, ...]:
        """The positions of the operands that are no arguments: patterns, ones and the scale."""
        return tuple(place for place, name in enumerate(self.reads) if name is None)

    def contract_expression(self, **options: Any) -> Callable[..., torch.Tensor]:
        """A function of the arguments alone, with the order of contraction chosen once.

        Args:
            **options: those of `opt_einsum.contract_expression`, such as `optimize="dp"`.

        Returns:
            A function of tensors in torch's layout, in the order of the source's `arguments` or by name, whose
            result has `shape`.

        Raises:
            ArgumentError: there are no arguments. The function: a tensor has not the shape of the
                expression, or not the dtype and device of its patterns.
        """
        if not self.signature.axes:
            raise ArgumentError(
                "the network has no arguments, so there is nothing to call again; use opt_einsum.contract once"
            )
        constant = set(self.constants)
        views = [op if place in constant else _shape(op) for place, op in enumerate(self.operands)]
        contract = opt_einsum.contract_expression(
            self.equation, *views, constants=list(self.constants), **options
        )
        if constant:
            contract.evaluate_constants("torch")  # now, for a first call may be under torch.inference_mode
        reading = [factor for factor in self.factors if factor.reads is not None]

        def call(*tensors: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
            given = self._given(tensors, named)
            dtype = next(t.dtype for name, t in given.items() if name not in self.signature.tables)
            operands = (factor.operand(given, dtype) for factor in reading)
            value: torch.Tensor = contract(*operands)
            return (value.real if self.real and value.is_complex() else value).reshape(self.shape)

        return call

    def _given(
        self, tensors: Sequence[torch.Tensor], named: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The tensors of a call by name, checked."""
        given = dict(zip(self.signature.axes, _checked(self.signature, tensors, named), strict=True))
        for place in self.constants[:1]:
            constant, (name, first) = self.operands[place], next(iter(given.items()))
            if (first.dtype, first.device) != (constant.dtype, constant.device):
                raise ArgumentError(
                    f"argument {name!r} is {first.dtype} on {first.device} but the patterns are {constant.dtype} on "
                    f"{constant.device}; give to_einsum dtype= and device=, or convert the arguments"
                )
        return given


def to_einsum(
    source: object,
    *tensors: torch.Tensor,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **named: Any,
) -> EinsumExpression:
    """A network as one einsum: its equation, its dense operands, and the shape of the result.

    Without tensors, the operands that are arguments are shapes, as `opt_einsum.contract_expression` takes
    them: `to_einsum(network, N=4)`.

    Args:
        source: a `Network`, or a compiled function for its network after the passes.
        *tensors: the arguments in the order of `source.arguments`, in torch's layout, or by name.
        dtype: of the constant operands where no tensors are given; torch's default if left out.
        device: of the constant operands where no tensors are given; the CPU if left out.
        **named: arguments by name, and the size symbols (`N=4`) that no shape gives.

    Returns:
        `(equation, operands, shape)` to unpack: `einsum(equation, *operands).reshape(shape)` is the value.

    Raises:
        LoweringError: the source is no network, or a sum of several.
        ArgumentError: an argument or a size is missing or does not fit, or the dtype cannot hold the scale.
    """
    network = _network(source)
    signature = _ordered(network, source)
    numbers = {name: as_integer(value) for name, value in named.items() if name not in signature.axes}
    sizes = {name: number for name, number in numbers.items() if number is not None}
    by_name = {name: value for name, value in named.items() if name not in sizes}
    given: dict[str, torch.Tensor] = {}
    if tensors or by_name:
        if dtype is not None or device is not None:
            raise ArgumentError("dtype or device was given with tensors, which have theirs; leave it out")
        given = dict(zip(signature.axes, _checked(signature, tensors, by_name), strict=True))
        dtype, device = next((t.dtype, t.device) for name, t in given.items() if name not in signature.tables)
    bound = _bound(network, given, sizes)
    factors, legs = _factors(bound)
    constant = _Constant(bound.name, dtype or torch.get_default_dtype(), device)
    operands = tuple(f.operand(given, constant.dtype) if f.reads else constant(f.value) for f in factors)
    reads = tuple(factor.reads for factor in factors)
    shape = tuple(axis.size for axis in bound.output)
    conjugated = tuple(factor.conj for factor in factors)
    equation, signature = _equation(factors, legs), _ordered(bound, source)
    given_as = tuple(factors)
    return EinsumExpression(equation, operands, shape, reads, conjugated, bound.real, signature, given_as)


def _network(source: object) -> Network:
    found = source if isinstance(source, Network | Sum) else getattr(source, "network", None)
    if not isinstance(found, Network | Sum):
        raise LoweringError(
            f"to_einsum takes a Network or a compiled function, not {type(source).__name__}; "
            "give tnconv.compile(layer, operation)"
        )
    if len(found.terms) > 1:
        raise LoweringError(
            f"{found.name!r} is a sum of {len(found.terms)} terms and an einsum is one product; export each of "
            "`for term in network.terms` and add up, or leave the bias of the layer out"
        )
    return found.terms[0]


def _ordered(network: Network, source: Any) -> Signature:
    """The arguments of a network in the order of what it comes from: of an equation, that of its operands."""
    found = Signature.of(network)
    return Signature({name: found.axes[name] for name in source.arguments}, tables=found.tables)


def _checked(signature: Signature, tensors: Sequence[object], named: Mapping[str, object]) -> Sequence[Any]:
    found = signature.collect(tensors, named)
    signature.check(found, TENSORS)
    return found


def _bound(network: Network, given: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Network:
    """The network with integers in place of its symbols."""
    unknown = [name for name in sizes if name not in network.symbols]
    if unknown:
        raise ArgumentError(
            f"size {unknown[0]!r} was given but {network.name!r} has the symbols {', '.join(network.symbols) or '-'}"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    values = bind_symbols(network, shapes, sizes) if given else dict(sizes)
    missing = [name for name in network.symbols if name not in values]
    if missing:
        raise ArgumentError(
            f"{network.name!r} needs a value for {', '.join(missing)}; give {missing[0]}=4, or tensors that have it"
        )
    try:
        return network.bind(values)
    except NetworkError as error:
        raise ArgumentError(f"{network.name!r} is no einsum for sizes {values}: {error}") from error


# -- factors -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Factor:
    """One operand: its legs, and the argument that it reads, maybe conjugated, or the constant that it is."""

    legs: tuple[Index, ...]
    reads: str | None = None
    value: Any = None
    conj: bool = False
    table: bool = False

    def operand(self, given: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> Any:
        """The tensor with an axis a leg; its shape where it was not given."""
        sizes = tuple(leg.size for leg in self.legs)
        tensor = given.get(self.reads or "")
        if tensor is None:
            return sizes
        return self.dense(tensor, dtype) if self.table else _conjugate(tensor.reshape(sizes), self.conj)

    def dense(self, rows: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """The 0/1 matrix of a selection.

        Raises:
            ArgumentError: a row is out of range.
        """
        count = self.legs[0].size
        checked = table(rows, count, self.reads or "")
        return (torch.arange(count, device=rows.device)[:, None] == checked).to(dtype)


def _factors(network: Network) -> tuple[list[_Factor], tuple[Index, ...]]:
    """The operands of a network without symbols, and the legs of the result."""
    names = {index.name for index in network.indices}
    factors: list[_Factor] = []
    relations: list[Pattern] = []
    for node in network.nodes:
        match node:
            case Tensor():
                legs, ties = _legs(node.axes, names)
                factors.append(_Factor(legs, reads=node.argument, conj=node.conj))
                relations += ties
            case Pattern() | Delta():
                factors.append(_Factor(node.indices, value=expand_pattern(node)))
            case Select():
                factors.append(_Factor(node.indices, reads=node.table, table=True))
            case Scale():
                pass
    output, ties = _legs(network.output, names)
    factors += [_Factor(r.indices, value=expand_pattern(r)) for r in (*relations, *ties)]
    present = {leg for factor in factors for leg in factor.legs}
    factors += [_Factor((leg,), value=np.ones(leg.size)) for leg in output if leg not in present]
    if network.scale != 1 or not factors:
        factors.append(_Factor((), value=network.scale))
    return factors, output


def _legs(axes: Sequence[Axis], names: set[str]) -> tuple[tuple[Index, ...], list[Pattern]]:
    """One leg an index; an affine axis is one leg of its own, with the pattern that ties its cells."""
    dims, ties = untied(axes, names)
    return tuple(index for dim in dims for index in dim), ties


def _equation(factors: Sequence[_Factor], output: Sequence[Index]) -> str:
    order = dict.fromkeys(leg for factor in factors for leg in factor.legs)
    letter = {leg: opt_einsum.get_symbol(number) for number, leg in enumerate(order)}
    parts = ("".join(letter[leg] for leg in factor.legs) for factor in factors)
    return f"{','.join(parts)}->{''.join(letter[leg] for leg in output)}"


# -- constants ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Constant:
    """Makes the operands that are no arguments, all of one dtype on one device."""

    name: str
    dtype: torch.dtype
    device: torch.device | str | None

    def __call__(self, value: Any) -> torch.Tensor:
        return self._scale(value) if is_expression(value) else self._tensor(value)

    def _tensor(self, value: Array | float) -> torch.Tensor:
        return torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def _scale(self, scale: Any) -> torch.Tensor:
        number = int(scale) if scale.is_Integer and abs(scale) < _INTEGER else float(scale)
        try:
            made = self._tensor(number)
            error = abs(complex(made.item()) - number)
        except (OverflowError, RuntimeError):
            error = float("inf")
        if not error <= _ROUNDING * abs(number):
            raise ArgumentError(
                f"scale {scale} of {self.name!r} cannot be represented in {self.dtype}; use another dtype"
            )
        return made


def _conjugate(tensor: torch.Tensor, conj: bool) -> torch.Tensor:
    """The tensor or its conjugate, written out: other libraries know no tensor that is only meant conjugated."""
    return tensor.conj_physical() if conj else tensor


def _shape(operand: Any) -> tuple[int, ...]:
    return operand if isinstance(operand, tuple) else tuple(operand.shape)
