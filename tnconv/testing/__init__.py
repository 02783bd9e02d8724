"""Strategies and laws for tests of tnconv itself and of its plug-ins; needs `pip install tnconv[test]`.

    @given(networks(), seeds())
    def test_my_pass_keeps_the_value(network, seed):
        assert_pass(MyPass(), network, seed)

Values are compared exactly, on small integers, by the reference backend; kernels in float64.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("tnconv.testing needs hypothesis; install it with: pip install tnconv[test]") from error

from tnconv.testing.extensions import assert_kernel, assert_pass, assert_rule, assert_same_plan
from tnconv.testing.laws import assert_roundtrip, assert_same_value, assert_valid
from tnconv.testing.names import Renamed, assert_alike, assert_names_mean_nothing, renamed
from tnconv.testing.strategies import conv_specs, networks, seeds, sums
from tnconv.testing.values import random_arguments, random_symbols

__all__ = [
    "Renamed",
    "assert_alike",
    "assert_kernel",
    "assert_names_mean_nothing",
    "assert_pass",
    "assert_roundtrip",
    "assert_rule",
    "assert_same_plan",
    "assert_same_value",
    "assert_valid",
    "conv_specs",
    "networks",
    "random_arguments",
    "random_symbols",
    "renamed",
    "seeds",
    "sums",
]
