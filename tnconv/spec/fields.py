"""The fields of a spec, one at a time: their types and ranges, and one value for each spatial dimension."""

import keyword
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tnconv.errors import NetworkError, SpecError
from tnconv.ir import Size, as_integer, symbol

Ints = int | tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
NumericPadding = int | tuple[int | tuple[int, int], ...]
Padding = int | str | tuple[int | tuple[int, int], ...]
Symbolic = int | str  # an int, or the name of a size symbol
if TYPE_CHECKING:  # what modules have is a number, what networks have a size: whoever reads a field knows
    Extent = Any
    Extents = Any
else:
    Extent = int | str
    Extents = int | str | tuple[int | str, ...]

T = TypeVar("T")

MAX_SIZE = 2**62
_MAX_COEFFICIENT = 2**31 - 1
MAX_DIMS = 16
_EXTENT = 'give an int of at least 1, or the name of a symbol such as "C"'
_EACH = "or a tuple with one for each spatial dimension"
HELP = {
    **dict.fromkeys(("in_channels", "out_channels", "in_features", "out_features", "channels"), _EXTENT),
    **dict.fromkeys(
        ("kernel_size", "input_size"), f"give an int of at least 1 or the name of a symbol, {_EACH}"
    ),
    "batch_size": 'give an int of at least 1, or the name of a symbol such as "N"',
    **dict.fromkeys(("output_size", "stride", "dilation"), f"give an int of at least 1, {_EACH}"),
    "padding": 'give an int of at least 0, a tuple of ints or of (left, right) pairs, "same" or "valid"',
    "output_padding": f"give an int of at least 0, {_EACH}",
    "groups": 'give an int of at least 1, or the name of a symbol such as "G"',
    **dict.fromkeys(("bias", "ceil_mode", "count_include_pad"), "give true or false"),
    "divisor": "give an int of at least 1, or leave it out for the number of kernel cells",
    "padding_mode": 'give "zeros", "circular", "reflect" or "replicate"',
}
NUMERIC_HELP = HELP | {"padding": "give an int of at least 0, a tuple of ints or of (left, right) pairs"}


def typed(name: str, value: object, annotation: Any, advice: Mapping[str, str] = HELP) -> Any:
    """The value of a field with lists as tuples, once its type and range are right.

    Args:
        name: of the field.
        value: as the user gave it.
        annotation: the type that the field has.
        advice: what to give for each field, for messages.

    Raises:
        SpecError: the type or the range is wrong.
    """
    try:
        found = msgspec.convert(_plain(value), annotation)
    except (msgspec.ValidationError, RecursionError) as error:
        reason = str(error).split(" - at ")[0]
        raise SpecError(f"{name} is {shown(value)}: {reason}; {advice[name]}") from error
    low = 0 if name in ("padding", "output_padding", "output_size") else 1
    high = _MAX_COEFFICIENT if name in ("stride", "dilation") else MAX_SIZE
    for number in _numbers(found):
        if not low <= number <= high:
            limit = f"at least {low}" if number < low else f"at most {high}"
            raise SpecError(f"{name} is {shown(value)} but {shown(number)} is not {limit}; {advice[name]}")
    if annotation in (Symbolic, Extents):
        for text in found if isinstance(found, tuple) else (found,):
            if isinstance(text, str):
                _check_symbol(name, text, advice[name])
    return found


def _check_symbol(name: str, value: str, advice: str) -> None:
    try:
        symbol(value)
    except NetworkError as error:
        raise SpecError(f"{name} is {shown(value)}: {error}; {advice}") from error
    if keyword.iskeyword(value):
        raise SpecError(f"{name} is {value!r}, a word that Python reserves; {advice}")


def _plain(value: object) -> object:
    """Lists as tuples and integers of other packages as int; what is none stays, so that it is refused."""
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    number = as_integer(value)
    return value if number is None else number


def _numbers(value: object) -> tuple[int, ...]:
    if isinstance(value, tuple):
        return tuple(n for v in value for n in _numbers(v))
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else ()


def shown(value: object) -> str:
    """The value for a message, cut to a length that one can read (and that an int of any size can be)."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a container of ints too long for repr, or nested too deep
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def size_names(rank: int) -> tuple[str, ...]:
    """What the sizes of an input are called where nobody says: H and W of an image."""
    usual = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
    return usual.get(rank) or tuple([f"I{place}" for place in range(1, rank + 1)])


def spatial_dims(kernel_size: Extents, input_size: Extents) -> int:
    """The number of spatial dimensions: the length of either field, 1 if both are ints.

    Raises:
        SpecError: the lengths differ, or are not between 1 and 16.
    """
    lengths = {len(v) for v in (kernel_size, input_size) if isinstance(v, tuple)}
    if len(lengths) > 1:
        _refuse_whole_shape(kernel_size, input_size)
        raise SpecError(
            f"kernel_size {shown(kernel_size)} and input_size {shown(input_size)} have different lengths; "
            "give both one value for each spatial dimension"
        )
    dims = lengths.pop() if lengths else 1
    if not 1 <= dims <= MAX_DIMS:
        raise SpecError(
            f"the layer has {dims} spatial dimensions; give kernel_size and input_size 1 to {MAX_DIMS}"
        )
    return dims


def _refuse_whole_shape(kernel_size: Extents, input_size: Extents) -> None:
    """Say so where the input size has the axes of examples and channels too."""
    if not isinstance(kernel_size, tuple) or not isinstance(input_size, tuple):
        return
    dims, extra = len(kernel_size), len(input_size) - len(kernel_size)
    if extra in (1, 2):
        raise SpecError(
            f"kernel_size {shown(kernel_size)} and input_size {shown(input_size)} have different lengths; an "
            f"input size has no axes of examples and channels: if {shown(input_size)} is the shape of a whole input, "
            f"give input_size={shown(input_size[-dims:])}"
        )


def spread(name: str, value: T | tuple[T, ...], dims: int) -> tuple[T, ...]:
    """One value for each spatial dimension; as in torch, one alone or in a tuple of its own is for all.

    Raises:
        SpecError: there are more or fewer values than dimensions.
    """
    if not isinstance(value, tuple):
        return (value,) * dims
    if len(value) == 1 and not isinstance(value[0], tuple):
        return value * dims
    check_length(name, value, dims)
    return value


def check_length(name: str, value: object, dims: int) -> None:
    """Refuse a tuple that has not one value for each spatial dimension.

    Raises:
        SpecError: it has more or fewer.
    """
    if isinstance(value, tuple) and len(value) != dims:
        raise SpecError(
            f"{name} {shown(value)} has length {len(value)} but the layer has {dims} spatial dimension(s); "
            "give one value for each, or one int for all"
        )


def paddings(padding: Padding, strides: Sequence[int], reaches: Sequence[Size]) -> Pairs:
    """(left, right) padding of every spatial dimension.

    Args:
        padding: the field, in any of its forms.
        strides: one for each dimension.
        reaches: cells that the dilated kernel covers, one for each dimension.

    Raises:
        SpecError: the padding is none of the forms, or does not fit the other fields.
    """
    if isinstance(padding, str):
        return _named_paddings(padding, strides, reaches)
    dims = len(strides)
    if isinstance(padding, int):
        return ((padding, padding),) * dims
    count = sum(isinstance(p, int) for p in padding)
    if count not in (0, len(padding)):
        raise SpecError(
            f"padding {shown(padding)} mixes ints and pairs; write every dimension as a (left, right) pair"
        )
    if count == 2 and dims == 1:
        raise SpecError(
            f"padding {padding} has length 2 but the layer has 1 spatial dimension(s); "
            f"write ({padding},) for left and right"
        )
    each: Any = spread("padding", padding, dims)
    return tuple((p, p) if isinstance(p, int) else p for p in each)


def _named_paddings(name: str, strides: Sequence[int], reaches: Sequence[Size]) -> Pairs:
    if name == "valid":
        return ((0, 0),) * len(strides)
    if name != "same":
        raise SpecError(f"padding {shown(name)} is not a known name; {HELP['padding']}")
    if any(s != 1 for s in strides):
        raise SpecError(
            f"padding 'same' needs stride 1 but stride is {tuple(strides)}; give the padding as numbers"
        )
    symbolic = [reach for reach in reaches if not isinstance(reach, int)]
    if symbolic:
        raise SpecError(
            f"padding 'same' depends on the kernel, which covers {symbolic[0]} cells; give the padding as numbers"
        )
    return tuple(((reach - 1) // 2, reach - 1 - (reach - 1) // 2) for reach in reaches)
