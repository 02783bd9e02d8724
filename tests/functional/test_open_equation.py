"""Equations whose sizes are open by name."""

import pytest
import torch

import tnconv
from tnconv.errors import ArgumentError, ParseError
from tnconv.functional.equations import EinsumFunction


def test_one_expression_for_every_size_is_the_einsum_of_each() -> None:
    equation = "n c 2*h+r-3 w+s-1, k c r s -> n k h w"
    function = tnconv.einsum_expression(equation, ("N", 2, "H", "W"), (3, 2, 7, 3))
    assert function.sizes == ("H", "W")
    weight = torch.randint(-3, 4, (3, 2, 7, 3)).double()
    for batch, size in ((1, (9, 8)), (2, (10, 9)), (3, (11, 12)), (1, (12, 14))):
        x = torch.randint(-3, 4, (batch, 2, *size)).double()
        assert torch.equal(function(x, weight), tnconv.einsum(equation, x, weight))
    made = function.at(H=9, W=8)
    assert isinstance(made, EinsumFunction)
    assert made.equation == equation
    with pytest.raises(ArgumentError, match=r"argument 'x1' has 3 axes"):
        function(x[0], weight)


def test_the_order_of_the_operands_is_that_of_the_terms() -> None:
    equation = "k c r, n c h+r -> n k h"
    function = tnconv.einsum_expression(equation, (3, 2, 3), ("N", 2, "L"))
    for size in (5, 6, 9):
        weight, x = torch.randn(3, 2, 3, dtype=torch.float64), torch.randn(2, 2, size, dtype=torch.float64)
        assert torch.allclose(function(weight, x), torch.nn.functional.conv1d(x, weight))


def test_letters_that_are_convolved_may_be_open() -> None:
    equation = "bsh,tsh->bth|h"
    function = tnconv.conv_einsum_expression(equation, ("B", 2, "H"), (3, 2, 3))
    assert function.sizes == ("H",)
    weight = torch.randn(3, 2, 3, dtype=torch.float64)
    for size in (5, 8, 9):
        x = torch.randn(4, 2, size, dtype=torch.float64)
        assert torch.allclose(function(x, weight), tnconv.conv_einsum(equation, x, weight))


def test_symbols_stay_and_mistakes_are_told_as_before() -> None:
    plain = tnconv.einsum_expression("n c, k c -> n k", ("N", 4), (3, 4))
    assert plain.sizes == ()
    assert plain.network.symbols == ("N",)
    with pytest.raises(ParseError):
        tnconv.einsum_expression("n c h+, c -> n", ("N", 3, "H"), (3,))
    with pytest.raises(ArgumentError, match="axes"):
        tnconv.einsum_expression("n c h+r, r -> n c h", ("N", "H"), (3,))
