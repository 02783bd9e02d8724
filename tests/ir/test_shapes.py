"""Sizes of convolved axes against a walk over the cells, and against PyTorch."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tnconv.ir.shapes import covered, window_count

SMALL = st.integers(1, 5)


@given(SMALL, SMALL, SMALL, SMALL)
def test_covered_counts_from_the_first_cell_to_the_last(kernel, dilation, positions, stride):
    cells = {stride * o + dilation * k for o in range(positions) for k in range(kernel)}
    assert covered(kernel, dilation, positions, stride) == max(cells) + 1
    image, weight = torch.zeros(1, 1, positions), torch.zeros(1, 1, kernel)
    assert F.conv_transpose1d(image, weight, stride=stride, dilation=dilation).shape[2] == max(cells) + 1


@given(st.integers(0, 25), SMALL, SMALL, SMALL)
def test_windows_count_while_they_lie_within(cells, kernel, stride, dilation):
    count = 0
    while covered(kernel, dilation, count + 1, stride) <= cells:
        count += 1
    found = window_count(cells, kernel, stride, dilation)
    assert max(found, 0) == count
    if count:
        image, weight = torch.zeros(1, 1, cells), torch.zeros(1, 1, kernel)
        assert F.conv1d(image, weight, stride=stride, dilation=dilation).shape[2] == count
