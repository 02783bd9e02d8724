"""Spec files: TOML or JSON, by the suffix of the path."""

import codecs
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tnconv.errors import SpecError

_SUFFIXES = (".toml", ".json")
_MAX_FILE = 65_536


def write_file(file: Path, content: Mapping[str, object]) -> None:
    """Write fields as TOML or JSON.

    Raises:
        SpecError: the suffix is another, or the file cannot be written.
    """
    if _suffix(file) == ".json":
        text = msgspec.json.format(msgspec.json.encode(content).decode()) + "\n"
    else:
        # A JSON int, bool, string of ASCII letters or array of these is the same text in TOML.
        text = "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in content.items())
    try:
        file.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise SpecError(f"spec file {str(file)!r} cannot be written: {error}; check the path") from error


def read_file(file: Path) -> object:
    """What a TOML or JSON file holds.

    Raises:
        SpecError: the suffix is another, or the file cannot be read or is not what its suffix says.
    """
    decode = msgspec.json.decode if _suffix(file) == ".json" else msgspec.toml.decode
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise SpecError(f"spec file {str(file)!r} cannot be read: {error}; check the path") from error
    if len(data) > _MAX_FILE:
        raise SpecError(
            f"spec file {str(file)!r} is longer than {_MAX_FILE} bytes; a spec has a dozen short fields"
        )
    try:
        return decode(data.removeprefix(codecs.BOM_UTF8))  # which some editors write
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"spec file {str(file)!r} is not valid {file.suffix[1:].upper()}: {error}; correct it"
        ) from error


def _suffix(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in _SUFFIXES:
        return suffix
    raise SpecError(f"spec file {str(file)!r} has suffix {suffix!r}; use {' or '.join(_SUFFIXES)}")
