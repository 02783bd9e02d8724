"""Where specs come from: a file, or whatever a user hands over as a layer."""

import difflib
from pathlib import Path

from torch import nn

from tnconv.errors import SpecError
from tnconv.spec.conv import KIND, ConvSpec, field_types
from tnconv.spec.fields import HELP, Ints, shown, spread, typed
from tnconv.spec.files import read_file


def load_spec(path: str | Path) -> ConvSpec:
    """Read a spec from a TOML or JSON file whose top-level keys are the fields, and perhaps `kind = "conv"`.

    Raises:
        SpecError: the file cannot be read, is not TOML or JSON, or its content is not a valid spec.
    """
    file = Path(path)
    content = read_file(file)
    try:
        return _from_dict(content)
    except SpecError as error:
        raise SpecError(f"spec file {str(file)!r}: {error}") from error


def as_spec(source: object, input_size: Ints | None = None) -> ConvSpec:
    """The spec that a user means by a spec or a module.

    Args:
        source: a ConvSpec, or a torch convolution.
        input_size: extent of the input; a module needs it, a spec has it.

    Raises:
        SpecError: the source is neither, or the input size is missing or contradicts the spec.
    """
    name = type(source).__name__
    if isinstance(source, nn.Module):
        if input_size is None:
            raise SpecError(
                f"{name} does not know its input's size; give input_size, such as input_size=(56, 56)"
            )
        return ConvSpec.from_module(source, input_size)
    if not isinstance(source, ConvSpec):
        raise SpecError(f"{name!r} is not a layer; give a ConvSpec or an nn.Conv1d, Conv2d or Conv3d")
    if input_size is not None:
        sizes = spread("input_size", typed("input_size", input_size, Ints), source.spatial_dims)
        if sizes != source.input_sizes:
            raise SpecError(
                f"input_size is {sizes} but the spec has {source.input_sizes}; give it in the spec alone"
            )
    return source


def _from_dict(content: object) -> ConvSpec:
    if not isinstance(content, dict):
        raise SpecError(
            f"the content is {shown(content)}, not a table of fields; write in_channels, out_channels, …"
        )
    given = dict(content)
    kind = given.pop("kind", KIND)
    if kind != KIND:
        raise SpecError(
            f"kind is {shown(kind)} but only {KIND!r} is known; write kind = {KIND!r}, or leave it out"
        )
    for name in given:
        if name not in field_types():
            close = difflib.get_close_matches(name, field_types(), 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(field_types())}"
            raise SpecError(f"unknown field {shown(name)}; {hint}")
    missing = [name for name in list(field_types())[:4] if name not in given]
    if missing:
        raise SpecError(f"field {missing[0]!r} is missing; {HELP[missing[0]]}")
    return ConvSpec(**given)
