"""How quantities are written for people, in every table: `57.8 M × N`, `40.8 µs`, `1.5 KiB`.

Texts that are read back, networks, plans and programs, have exact numbers: they are not written by these functions.
"""

import re

from tnconv.ir.size import Size

BINARY = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_TIMES = (("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_EXACT = 10_000  # integers below are written out
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LONG = re.compile(r"(?<![\w.])\d{5,}(?![\w.])", re.ASCII)


def _digits(value: float) -> str:
    """Three significant digits, `57.8` or `0.578`; all those before the point, `1234`."""
    if 99.95 <= abs(value) < 1e6:
        return f"{value:.0f}"
    text = f"{value:#.3g}"
    return text if "e" not in text else f"{value:.3g}"


def format_number(value: float) -> str:
    """A number: an integer below 10,000 as it is, otherwise three digits and a prefix, `57.8 M`."""
    if value == int(value) and abs(value) < _EXACT:
        return str(int(value))
    if not 1 <= abs(value) < 1e21:
        return _digits(value)
    return _scaled(value, _PREFIXES)


def format_count(size: Size) -> str:
    """A count, or its formula: `57.8 M × N`, `H² × W + 9`."""
    text = re.sub(r"\*\*(\d+)", lambda found: found[1].translate(_RAISED), str(size))
    text = re.sub(r"\s*(?<!\*)\*(?!\*)\s*", " × ", text)
    return _LONG.sub(lambda found: format_number(int(found[0])), text)


def format_time(seconds: float) -> str:
    """A time: `40.8 µs`, `3.20 s`, `2.78 h`."""
    return "0 s" if seconds == 0 else _scaled(seconds, _TIMES)


def format_memory(size: int) -> str:
    """Bytes, rounded up, so that the text is enough as a limit: `1536` is `1.5 KiB`."""
    unit, step = next((u, s) for u, s in reversed(BINARY.items()) if size >= s or s == 1)
    whole, rest = divmod(-(-size * 10 // step), 10)
    return f"{whole}.{rest} {unit}" if rest else f"{whole} {unit}"


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits with the largest unit of which there is at least one."""
    for unit, step in units:
        text = _digits(value / step)
        if unit == "h" and value >= 1000 * step:
            return f"{format_number(value / step)} {unit}"
        if abs(float(text)) >= 1:
            return f"{text} {unit}".rstrip()
    unit, step = units[-1]
    return f"{_digits(value / step)} {unit}".rstrip()
