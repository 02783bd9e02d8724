"""The notation of arXiv 2401.03384: `"bshw,tshw->bthw|hw"`, letters behind `|` are convolved.

A letter `j` that m >= 2 operands hold becomes one index `j1 … jm` an operand, the index `j` of the result, and one
pattern: `stride*j + shift = j1 + … + jm`, a true convolution, so no operand is flipped and no intermediate cut.
With sizes `n_1 … n_m`, `N = Σ n - m + 1` and `M = max n`:

    full      shift 0          N cells
    same      (N - M)//2       M
    valid     N - M            2*M - N
    circular  0, modulo M      M
    pad       j1 = stride*j + Σ dilation*j_k - padding, cross-correlation with the first operand as the signal
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from tnconv.errors import ArgumentError, meant
from tnconv.ir import (
    Axis,
    Index,
    Network,
    Relational,
    Role,
    Size,
    Tensor,
    as_integer,
    evaluate,
    group,
    pattern,
    symbol,
)
from tnconv.ir.affine import reach_of_sizes
from tnconv.ir.shapes import window_count
from tnconv.notation.convolution_text import Convolution, parse_convolution
from tnconv.notation.equation_text import (
    Names,
    check_shapes,
    operand_name,
)
from tnconv.notation.kinds import with_kinds

MODES = ("full", "same", "valid", "circular", "pad")


@dataclass(frozen=True, slots=True)
class Options:
    """How one letter is convolved.

    Args:
        mode: one of `MODES`.
        stride: every how many cells one is kept.
        padding: zero cells on both sides of the signal, in mode "pad".
        dilation: distance of kernel cells in mode "pad", an int or one for each operand behind the first.
    """

    mode: Any = "same"
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1


def convolution_network(
    equation: str,
    shapes: Sequence[Sequence[object]],
    *,
    mode: object = "same",
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
) -> Network:
    """The network of an equation in the notation of arXiv 2401.03384.

    Operands are called `x1`, `x2`, …; the first is an input, the others are parameters.

    Args:
        equation: such as `"ijk,jl,lmq,njpq->ijknp|j"`: single letters, or names separated by spaces.
        shapes: one an operand; sizes of ordinary letters may be symbols.
        mode: `"full"`, `"same"`, `"valid"`, `"circular"` or `"pad"`; as the other options, one value or a dict by
            letter, in which the default stands for letters that are left out.
        stride: every `stride`-th cell of the result is kept.
        padding: zero cells on both sides of the signal, in mode "pad" only.
        dilation: distance of kernel cells, an int or one for each operand behind the first, in mode "pad" only.

    Raises:
        ParseError: the equation does not parse.
        ArgumentError: shapes or options do not fit it.
    """
    parsed = parse_convolution(equation)
    sizes = check_shapes(len(parsed.terms), shapes)
    given = {"mode": mode, "stride": stride, "padding": padding, "dilation": dilation}
    options = {letter: Options() for letter in parsed.convolved} | _options(parsed.convolved, given)
    return _Builder(parsed, sizes, options).network()


def convolution_shape(equation: str, shapes: Sequence[Sequence[int]], **options: object) -> tuple[int, ...]:
    """The shape of the result of an equation; axes that are not convolved may be empty.

    Args:
        equation: as for `convolution_network`.
        shapes: as for `convolution_network`, with sizes of 0 too.
        options: as for `convolution_network`.

    Raises:
        ParseError: the equation does not parse.
        ArgumentError: shapes or options do not fit it, or a convolved axis is empty.
    """
    parsed = parse_convolution(equation)

    def size_of(name: str, size: int) -> Size:
        return symbol(f"{name}_empty"[:64]) if size == 0 and name not in parsed.convolved else size

    sizes = [
        [size_of(*pair) for pair in zip(term, shape, strict=True)] if len(term) == len(shape) else shape
        for term, shape in zip_longest(parsed.terms, shapes, fillvalue=())
    ]
    network = convolution_network(equation, sizes[: len(shapes)], **options)
    return tuple(evaluate(axis.size, dict.fromkeys(network.symbols, 0)) for axis in network.output)


# -- options -----------------------------------------------------------------------------------------


def _options(letters: Sequence[str], given: Mapping[str, object]) -> dict[str, Options]:
    for option, value in given.items():
        if isinstance(value, Mapping):
            for letter in value:
                if letter not in letters:
                    raise ArgumentError(
                        f"{option} is given for {letter!r}, which is not convolved; the convolved letters are "
                        f"{', '.join(letters) or 'none'}"
                    )
    default = Options()

    def read(letter: str) -> Options:
        found = {
            option: value.get(letter, getattr(default, option)) if isinstance(value, Mapping) else value
            for option, value in given.items()
        }
        return _checked(letter, Options(**found))

    if not letters:  # which no option is for; each is read all the same
        read("")
    return {letter: read(letter) for letter in letters}


def _checked(letter: str, options: Options) -> Options:
    if not isinstance(options.mode, str) or options.mode not in MODES:
        raise ArgumentError(
            f"mode={options.mode!r} of {letter!r} is not known{meant(options.mode, MODES)}; use {', '.join(MODES)}"
        )
    stride, padding = (
        _whole(letter, "stride", options.stride, 1),
        _whole(letter, "padding", options.padding, 0),
    )
    many = isinstance(options.dilation, list | tuple)
    dilations = tuple(
        _whole(letter, "dilation", d, 1) for d in (options.dilation if many else (options.dilation,))
    )
    dilation = dilations if many else dilations[0]
    if options.mode != "pad":
        for option, value, default in (("padding", padding, 0), ("dilation", dilation, 1)):
            if value != default:
                raise ArgumentError(
                    f"{option}={value!r} is given but letter {letter!r} has mode {options.mode!r}; "
                    f"{option} is for mode 'pad'"
                )
    return Options(options.mode, stride, padding, dilation)


def _whole(letter: str, option: str, value: object, least: int) -> int:
    number = as_integer(value)
    if number is None or number < least:
        raise ArgumentError(
            f"{option}={value!r} of letter {letter!r} is not an integer of at least {least}; give one"
        )
    return number


# -- the network -------------------------------------------------------------------------------------


class _Builder(Names):
    """Makes the indices, patterns and axes of one equation."""

    def __init__(
        self,
        equation: Convolution,
        shapes: Sequence[tuple[Size, ...]],
        options: Mapping[str, Options],
    ) -> None:
        self.equation, self.options = equation, options
        self.sizes = _sizes(equation, shapes)
        names = dict.fromkeys(name for term in equation.terms for name in term)
        super().__init__(names)
        self.legs: dict[str, dict[int, Index]] = {}  # of a convolved letter, by operand
        self.indices: dict[str, Index] = {}  # of the result
        for name in names:
            self._add(name)

    def network(self) -> Network:
        tensors = [
            Tensor(
                operand_name(number),
                Role.PARAMETER if number else Role.INPUT,
                tuple(self._axis(name, number) for name in term),
            )
            for number, term in enumerate(self.equation.terms)
        ]
        output = tuple(group(index) for index in self._diagonals(self.equation.output))
        return with_kinds(Network("conv_einsum", (*tensors, *self.patterns), output))

    def _axis(self, name: str, number: int) -> Axis:
        """An axis of an operand; one of size 1 has no index where another operand has more cells."""
        if name in self.legs:
            return group(self.legs[name][number])
        index = self.indices[name]
        return Axis(()) if self.sizes[name][number] == 1 and index.size != 1 else group(index)

    def _add(self, name: str) -> None:
        sizes = self.sizes[name]
        if name not in self.options:
            self.indices[name] = Index(name, next((size for size in sizes.values() if size != 1), 1))
            return
        if len(sizes) == 1:
            ((number, size),) = sizes.items()
            if self.options[name] != Options(self.options[name].mode):
                raise ArgumentError(
                    f"letter {name!r} is held by operand {operand_name(number)} only, so it is not convolved and has "
                    "no stride, padding or dilation; give these as a dict of other letters"
                )
            self.indices[name] = Index(name, size)
            return
        for number, size in sizes.items():
            if not isinstance(size, int):
                raise ArgumentError(
                    f"convolved letter {name!r} has the symbolic size {size} on operand {operand_name(number)}; "
                    "give an integer"
                )
        self.legs[name] = {
            number: Index(self.fresh(f"{name}{number + 1}"), size) for number, size in sizes.items()
        }
        legs = tuple(self.legs[name].values())
        self.indices[name] = Index(name, _length(name, legs, self.options[name]))
        self.patterns.append(
            _relation(f"p{len(self.patterns) + 1}", self.indices[name], legs, self.options[name])
        )

    def _diagonals(self, names: Iterable[str]) -> list[Index]:
        """The indices of the result; a name's second is a copy on the diagonal."""
        seen: dict[str, Index] = {}
        indices = []
        for name in names:
            index = self.indices[name]
            if name in seen:
                index = self.second(index)
            seen[name] = index
            indices.append(index)
        return indices


def _sizes(equation: Convolution, shapes: Sequence[tuple[Size, ...]]) -> dict[str, dict[int, Size]]:
    """The sizes of every name by operand; an ordinary one has the same size everywhere."""
    sizes: dict[str, dict[int, Size]] = {}
    where: dict[tuple[str, int | None], str] = {}
    for number, (term, shape) in enumerate(zip(equation.terms, shapes, strict=True)):
        if len(term) != len(shape):
            raise ArgumentError(
                f"operand {operand_name(number)} has {len(shape)} axes, shape {shape}, but its term "
                f"[{' '.join(term)}] has {len(term)}; give one letter an axis"
            )
        for axis, (name, size) in enumerate(zip(term, shape, strict=True)):
            here = f"axis {axis} of operand {operand_name(number)}"
            key = (name, number if name in equation.convolved else None)
            first = where.setdefault(key, here)
            known = sizes.setdefault(name, {})
            other = known.get(number) if key[1] is not None else _other(known, number, size)
            if other is not None and other != size:
                advice = "" if key[1] is not None else f", or write {name!r} behind '|' to convolve operands"
                raise ArgumentError(
                    f"letter {name!r} has size {other} on {first} but {size} on {here}; make them equal{advice}"
                )
            known[number] = size
    return sizes


def _other(known: Mapping[int, Size], number: int, size: Size) -> Size | None:
    """A size of an ordinary letter that another one does not fit to; 1 on another operand fits to all."""
    if number in known:
        return known[number]
    return next((each for each in known.values() if each != 1), None) if size != 1 else None


def _length(letter: str, legs: Sequence[Index], options: Options) -> int:
    """How many cells the result has along a convolved letter."""
    sizes = [leg.size for leg in legs]
    total, most = sum(sizes) - len(sizes) + 1, max(sizes)
    if options.mode == "pad":
        dilations = _dilations(letter, legs, options)
        reach = reach_of_sizes(zip(dilations, sizes[1:], strict=True)).length
        if sizes[0] + 2 * options.padding < reach:
            raise ArgumentError(
                f"mode 'pad' leaves nothing of letter {letter!r}: the signal has {sizes[0]} cells and "
                f"{options.padding} zeros on either side, the kernels reach over {reach}; give more padding"
            )
        return window_count(sizes[0] + 2 * options.padding, reach, options.stride)
    length = {"full": total, "valid": 2 * most - total}.get(options.mode, most)
    if length < 1:
        raise ArgumentError(
            f"mode 'valid' leaves nothing of letter {letter!r}: its sizes are {sizes}, so {2 * most - total} cells; "
            "give a larger operand, or another mode"
        )
    return int(-(-length // options.stride))


def _relation(name: str, result: Index, legs: Sequence[Index], options: Options) -> Relational:
    """The one pattern of a convolved letter, solved for the signal: the first operand, or the largest."""
    sizes = [leg.size for leg in legs]
    if options.mode == "pad":
        signal = legs[0]
        rest = tuple(zip(_dilations(result.name, legs, options), legs[1:], strict=True))
        return pattern(name, signal, ((options.stride, result), *rest), -options.padding)
    total, most = sum(sizes) - len(sizes) + 1, max(sizes)
    signal = legs[sizes.index(most)]
    rest = tuple((-1, leg) for leg in legs if leg != signal)
    shift = {"same": (total - most) // 2, "valid": total - most}.get(options.mode, 0)
    modulus = most if options.mode == "circular" else None
    return pattern(name, signal, ((options.stride, result), *rest), shift, modulus)


def _dilations(letter: str, legs: Sequence[Index], options: Options) -> tuple[int, ...]:
    if isinstance(options.dilation, int):
        return (options.dilation,) * (len(legs) - 1)
    values = tuple(options.dilation)
    if len(values) != len(legs) - 1:
        raise ArgumentError(
            f"dilation={values} of letter {letter!r} has {len(values)} values but there are {len(legs) - 1} kernel "
            "operands; give one each, or an int"
        )
    return values
