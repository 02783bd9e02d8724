"""Numbers for people are three digits and a unit, wherever they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnconv.ir import evaluate, symbol
from tnconv.ir.quantities import format_count, format_memory, format_number, format_time

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_TIMES = {"h": 3600.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9} | {
    f"{p} h": 3600 * x for p, x in _PREFIXES.items() if p
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (5, "5"), (9999, "9999"), (10_000, "10.0 k"), (57_802_752, "57.8 M"), (999_950, "1.00 M"), (0.5, "0.500"),
        (123.0, "123"), (99.96, "100"), (999.6, "1.00 k"), (12345.6, "12.3 k"), (0.00012, "0.000120"), (-12345, "-12.3 k"),
        (10**30, "1e+30"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (40.8, "40.8 s"), (1e-3, "1.00 ms"), (0.99996, "1.00 s"), (4.08e-5, "40.8 µs"), (1e-9, "1.00 ns"),
        (3e-11, "0.0300 ns"), (10_000, "2.78 h"), (999.96, "1000 s"), (1e9, "278 k h"), (4e12, "1.11 G h"),
    ],
)  # fmt: skip
def test_times(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_counts_and_their_formulas() -> None:
    n, h = symbol("N"), symbol("H")
    assert format_count(57_802_752 * n) == "57.8 M × N"
    assert format_count(331776 * n**2 + 9) == "332 k × N² + 9"
    assert format_count(n**10 * h) == "H × N¹⁰"
    assert format_count(symbol("A12345") * 3) == "3 × A12345"
    assert format_count(h // 2 * 12345) == "12.3 k × floor(H/2)"
    assert format_count(evaluate(57_802_752 * n, {"N": 1})) == format_number(57_802_752)


@given(st.floats(1e-9, 1e9) | st.floats(999, 1001))
def test_a_text_is_within_half_a_digit(value: float) -> None:
    for form, units in ((format_number, _PREFIXES), (format_time, _TIMES)):
        digits, _, unit = form(value).partition(" ")
        assert abs(float(digits) * units[unit] - value) <= 0.00501 * value


@given(st.integers(0, 2**70))
def test_a_text_of_bytes_is_enough(count: int) -> None:
    digits, unit = format_memory(count).split()
    size = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    tenths = int(digits.replace(".", "")) * (1 if "." in digits else 10)
    assert 0 <= tenths * size - 10 * count < size
