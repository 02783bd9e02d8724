"""How fast a machine is at what kernels do, and all thresholds that choices depend on: measured once, or shipped.

A kernel's predicted time is its exact counts over these rates. What matters is their ratio: it decides whether
a copy that makes a product wider, or a native call that multiplies more, is worth it.
"""

import os
from functools import lru_cache
from math import ceil, inf
from pathlib import Path
from typing import Annotated

import msgspec

from tnconv.backends import cache_files
from tnconv.backends.torch.numerics.inner import LEAST_WORK, PROFILE, WIDE, is_wide
from tnconv.errors import LoweringError

FILE = "profiles.json"  # of `tnconv calibrate`, in the cache folder
_DEFAULTS = Path(__file__).with_name("profiles.json")


# Times are quotients of these: none may be 0 or infinite.
Rate = Annotated[float, msgspec.Meta(ge=1e-6, le=1e18)]


class Profile(msgspec.Struct, frozen=True):
    """How fast one device is in float32, and where one way to compute becomes faster than another.

    All that prices and choices depend on besides exact counts stands here. The rates are measured by `calibration`; the
    others are shares, thresholds and sizes that were fitted to one and two cores of a CPU.

    Args:
        matmul: multiplications a microsecond of a large square matrix product.
        convolution: multiplications a microsecond of a native convolution with many channels.
        inner_product: multiplications a microsecond of the same product by oneDNN, where that is not by the BLAS.
        depthwise: multiplications a microsecond of a native convolution with one channel a group.
        reference: multiplications a microsecond of such a gradient where PyTorch has no fast code for it.
        copy: elements a microsecond that a copy into another layout writes.
        stream: elements a microsecond that are read or written in order, where no cache holds them.
        sum: elements a microsecond that are read in order to be added up.
        window: elements a microsecond that a copy of windows writes, which are read in order.
        fresh: elements a microsecond of a result that is so large that the system hands out its memory anew.
        mirror: elements a microsecond of a triangle that is copied, transposed, from another that is in a cache.
        mirror_far: the same where the result is larger than `mirror_near` caches.
        gather: elements a microsecond that are read or written one by one at computed places.
        call: microseconds that a call into PyTorch takes by itself.
        cache: elements that fit in the cache which a worker works from, so that copying them is cheap.
        lanes: channels that a native convolution computes at once; fewer leave some of them idle.

        far: caches that are there together: an operand that is larger streams through memory.
        reused: elements of the largest result whose memory the C library keeps for the next one.
        gaps: elements a microsecond that are read with others between them, one by one.
        added: elements a microsecond that are read to be added to the cells of a result, which are read and written.
        sum_run: cells that take as long to be added up as it takes to begin a run of neighbours.
        run: cells that take as long to be copied as it takes to begin a run of neighbours.
        row: cells that take as long to be copied as it takes to begin a row of such runs.
        overlapping: of the time of another copy, that of windows: they overlap, so that most of what is read is in a
            cache.
        ordered: of the time of another copy, that of long runs of neighbours.
        ordered_run: cells of such a run.
        unseen: of what it takes more that a product is narrow, what it takes besides where nothing has copied its
            operands before, and so brought them into a cache.
        inner_calls: plain calls that take as long as one of oneDNN for a product.
        inner_turned: of the time of a copy, that of bringing a left operand of such a call in order, which lies column
            after column.
        packed: of the time of a copy, that of bringing an expanded operand into the library's own layout, once a batch.
        narrow: columns of a product at which it runs at half of the rate.
        slower: the power by which products get slower still that are narrower than that.
        ragged: columns that a product computes besides, where they are not whole halves of `lanes`.
        ragged_rows: times a copy of its result that such a product takes longer in one piece, if no cache holds that.
        narrowest_slower: times that the narrowest products take at most.
        alike: share of the time of a product without copies by which layouts differ that are about as good.

        half_rows: rows from which on half of a symmetric product may pay.
        half_sum: products that a cell sums, from which on half of a symmetric product may pay.
        half_worth: share of the time of the whole that half of a symmetric product may take.
        block_least: rows of a block of a symmetric product, at least.
        block_most: rows of a block of a symmetric product, at most.
        block_calls: plain calls that take as long as one that computes a block and one that mirrors it.
        mirror_near: caches that a result may fill whose triangle is mirrored at the rate `mirror`.
        group_work: multiplications of one group of a symmetric product that are worth calls of their own.
        strip_rows: rows of a symmetric product from which on writing it may be what takes long.
        strip_sum: products that a cell sums, up to which writing the result is what takes long.
        strip: rows of a strip of such a result, where so many divide its rows; half to twice as many else.
        half_most: rows that are asked for at most where it is looked for those from which on half of a product pays.
        narrow_half: columns at which a symmetric product runs at half of its rate.
        odd_half: the same for a number of columns that is not a multiple of 4.
        short_half: products that a cell sums, at which a symmetric product of few columns runs at half of its rate.
        narrowest: columns of a symmetric product that runs at a rate of its own.
        searched: of the time of a product of two operands, that of one operand with itself in one piece, for which no
            layout is searched and which takes a scale for nothing.

        dense_rate: of the rate of a convolution with a large kernel, that of one without overlapping windows.
        dense_transposed: of the rate of such a forward call, that of its transpose.
        dense_images: times a copy of the image and the result that such a call takes to bring them into a layout of its
            own.
        dense_strides: of the time of a copy of the cells of an image that lie some steps apart, what such a call with a
            stride takes for them; they are copied before it if that is not less.
        dense_image: positions from which on an image is worth a native call in place of a product.
        narrow_groups: of the rate of a weight gradient, that with groups of few channels.
        inverted: of the rate of a convolution, that whose kernel is larger than its result.
        again: of the time of a copy, that of an image which is read once more.
        turned: times a copy of a weight gradient that its result is copied: it is computed in another layout.
        small_images: times as long takes a weight gradient of images with fewer positions than `dense_image`.
        gradient_calls: plain calls that take as long as one of a weight gradient, with its copies of both operands.
        inner: times the rate of a convolution, without what it takes to bring images into the library's own layout
            and back.
        images: times a copy of these images that it takes; half of that where channels are last.
        images_ragged: the same where their channels are no multiple of `lanes`, and not last.
        gradient_work: multiplications of the weight gradient of one example that are worth a call of their own.
        gradients_large: cells of the weight gradients of all examples that are worth a call for each.
        few_channels: channels of a group that are slow where the examples are groups of one call.
        few_channels_work: multiplications of the weight gradient of one example with so few channels that are worth a
            call of their own.
        native: of the time of PyTorch's own call for an operation, what another kernel may be predicted to take at most
            to be taken in its place.
        streamed: cells of a product from which on it is quicker not to have it in memory before it is squared.

        slice_cells: cells of a slice of a sum that is worth a call of its own.
        slices_added: slices that are added up one after another, at most.
        slices_multiplied: slices whose products are added up one after another, at most.
        short_axes: cells of axes with others between them, up to which one is summed after another.
        begun: cells that take as long to be summed as it takes to begin a sum over an axis with others behind it, and
            to put the few cells beside it that are not in the sum.
        begun_row: the same of a sum over neighbours.
        begun_between: the same of a run of neighbours, in a sum over several axes with others between them.
        whole_runs: share of `sum_run` where runs are whole halves of `lanes`.
        at_once_apart: times as long takes a cell of such a sum where the last axis stays.
        run_calls: plain calls that take as long as those of a sum that is begun apart.
        padded: times as many cells as an axis has may its windows reach, to be padded for a view; they are picked one
            by one beyond that.
        grown: times as many cells may an operand have that is padded for a view of which a diagonal is read.
        picked: times as many cells may be read at computed places as would be written at such.
        wraps: runs of an axis of which circular or reflected padding is written, at most; it is picked cell by cell
            beyond that.
        tabled: elements a microsecond that are picked from rows that a cache holds, by one table for all rows.
        short_row: cells of a row of windows below which picking them may be quicker than copying rows.
        folded: times a copy of windows that it takes to add them up: each is read once and added to cells in a cache.
        interleaved: times a copy of windows that it takes to put them side by side.
        compared: of the time of a copy, that of comparing constants with those of the last call.

        merged_rate: of the rate of a weight gradient, that of one whose groups are merged.
        merged_groups: groups that are merged into one, at most.
        transformed: times the rate of a copy at which Fourier transforms go through their cells, for each of the
            logarithm of these.
        frequencies: of the rate of a product, that of small complex ones for each frequency, which lie apart.
        depthwise_last: of the time of a depthwise convolution, that with channels last, which brings no image into
            another layout.
        swapped: of the rate of a depthwise convolution, that of its transpose with the kernel in reverse order.
        spread: of that rate, that of PyTorch's own transpose with more than `taps`.
        quickest: times the rate of a depthwise convolution with many taps, that of one with many channels.
        taps: taps from which on a depthwise convolution is faster than at its rate, which is bound by memory.
        taps_apart: times as long takes the weight gradient of a depthwise convolution for each multiplication.
        quick_row: cells of a row of a depthwise kernel, up to which PyTorch has fast code for the weight gradient.

        lag_channels: channels of a group that make the many products of lags along two axes worth it.
        lags: times as long takes lag correlation as by its counts.
        lag_products: products for lags, at most; more are hardly worth their calls, and take long to count.
        piece: cells of the result that two kernel cells have in all groups, that are worth a copy of their own.
        lag_turned: of the time of a copy of windows, that of the inputs in another order.
        tile_columns: columns of a product of tiles, at most.
        tile_positions: positions of a tile, at most.
        tile_run: cells that take as long to be copied as it takes to begin a run of a tile.
        batched: microseconds that a product of a batch takes by itself.
        simpler: of the time of lags, that of windows at once, from which on lags are taken.
        narrow_most: of the rate of large products, what the narrowest reach at most.
        narrow_column: the same, for each column.
        narrow_apart: the same, where what is summed does not lie side by side.
    """

    matmul: Rate = 40_000.0
    convolution: Rate = 48_000.0
    depthwise: Rate = 4_000.0
    copy: Rate = 800.0
    gather: Rate = 60.0
    call: Rate = 4.0
    cache: Rate = 2**18
    reference: Rate = 1_100.0
    lanes: Rate = 16.0
    stream: Rate = 2_000.0
    sum: Rate = 20_000.0
    window: Rate = 8_000.0
    fresh: Rate = 400.0
    inner_product: Rate = 1.0
    mirror: Rate = 3_000.0
    mirror_far: Rate = 1_000.0

    far: Rate = 3.0
    reused: Rate = 2**23
    gaps: Rate = 1_000.0
    added: Rate = 8_000.0
    sum_run: Rate = 80.0
    run: Rate = 2.4
    row: Rate = 14.0
    overlapping: Rate = 0.6
    ordered: Rate = 0.35
    ordered_run: Rate = 256.0
    unseen: Rate = 0.7
    inner_calls: Rate = 5.0
    inner_turned: Rate = 0.6
    packed: Rate = 0.35
    narrow: Rate = 8.0
    slower: Rate = 1.3
    ragged: Rate = 12.0
    ragged_rows: Rate = 2.5
    narrowest_slower: Rate = 6.5
    alike: Rate = 0.1

    half_rows: Rate = 112.0
    half_sum: Rate = 64.0
    half_worth: Rate = 0.93
    block_least: Rate = 48.0
    block_most: Rate = 256.0
    block_calls: Rate = 3.5
    mirror_near: Rate = 15.0
    group_work: Rate = 2_000_000.0
    strip_rows: Rate = 1_024.0
    strip_sum: Rate = 24.0
    strip: Rate = 32.0
    half_most: Rate = 4_096.0
    narrow_half: Rate = 14.0
    odd_half: Rate = 40.0
    short_half: Rate = 40.0
    narrowest: Rate = 10.0
    searched: Rate = 0.9

    dense_rate: Rate = 0.83
    dense_transposed: Rate = 0.75
    dense_images: Rate = 1e-6
    dense_strides: Rate = 1.0
    dense_image: Rate = 100.0
    narrow_groups: Rate = 0.4
    inverted: Rate = 0.4
    again: Rate = 0.35
    turned: Rate = 1.2
    small_images: Rate = 1.6
    gradient_calls: Rate = 12.0
    inner: Rate = 1.2
    images: Rate = 0.8
    images_ragged: Rate = 1.4
    gradient_work: Rate = 1_000_000.0
    gradients_large: Rate = 2**22
    few_channels: Rate = 8.0
    few_channels_work: Rate = 4_000_000.0
    native: Rate = 0.9
    streamed: Rate = 2**20

    slice_cells: Rate = 4096.0
    slices_added: Rate = 128.0
    slices_multiplied: Rate = 1024.0
    short_axes: Rate = 8.0
    begun: Rate = 600.0
    begun_row: Rate = 130.0
    begun_between: Rate = 140.0
    whole_runs: Rate = 0.65
    at_once_apart: Rate = 12.0
    run_calls: Rate = 4.0
    padded: Rate = 16.0
    grown: Rate = 4.0
    picked: Rate = 2.0
    wraps: Rate = 16.0
    tabled: Rate = 1_800.0
    short_row: Rate = 8.0
    folded: Rate = 1.4
    interleaved: Rate = 1.5
    compared: Rate = 0.4

    merged_rate: Rate = 0.83
    merged_groups: Rate = 4.0
    transformed: Rate = 2.0
    frequencies: Rate = 0.006
    depthwise_last: Rate = 0.9
    swapped: Rate = 0.95
    spread: Rate = 0.8
    quickest: Rate = 2.4
    taps: Rate = 9.0
    taps_apart: Rate = 2.0
    quick_row: Rate = 3.0

    lag_channels: Rate = 16.0
    lags: Rate = 1.0
    lag_products: Rate = 8_000.0
    piece: Rate = 1_024.0
    lag_turned: Rate = 0.25
    tile_columns: Rate = 768.0
    tile_positions: Rate = 64.0
    tile_run: Rate = 6.0
    batched: Rate = 0.2
    simpler: Rate = 0.9
    narrow_most: Rate = 0.3
    narrow_column: Rate = 0.07
    narrow_apart: Rate = 0.012

    def copying(self, cells: float) -> float:
        """Predicted microseconds to write that many cells anew."""
        return cells / self.copy

    def multiplying(self, work: float, products: float = 1.0, turned: float = 0.0) -> float:
        """Predicted microseconds of products of large matrices, without what is special about their layouts.

        Args:
            work: multiplications of all of them.
            products: how many they are.
            turned: cells of left operands that lie column after column.
        """
        if not self.is_inner(work / max(products, 1.0)):
            return work / self.matmul
        called = products * self.inner_calls * self.call
        return called + work / self.inner_product + self.copying(self.inner_turned * turned)

    def is_inner(self, work: float) -> bool:
        """Whether a product of so many multiplications is one for oneDNN; see `numerics.inner`."""
        return self.inner_product > self.matmul and work >= LEAST_WORK

    def streaming(self, *cells: float) -> float:
        """Predicted microseconds to read or write operands of so many cells each, those that no cache holds."""
        return sum(count for count in cells if count > self.far * self.cache) / self.stream

    def filled(self, channels: float) -> float:
        """Share of the lanes that so many channels fill, `lanes` at once."""
        return channels / (self.lanes * ceil(channels / self.lanes))

    def reordered(self, cells: float, channels: float, *, last: bool = False) -> float:
        """Cells that take as long to be copied as to bring an image into the layout of native convolutions and back.

        Args:
            cells: of the image.
            channels: of a group of it.
            last: whether these are behind the positions.
        """
        ragged = channels >= self.lanes / 2 and channels % self.lanes != 0
        times = self.images / 2 if last else self.images_ragged if ragged else self.images
        return times * cells

    def is_whole(self, columns: float) -> bool:
        """Whether rows of so many cells are as quick as any: they are whole halves of `lanes`."""
        return columns % (self.lanes / 2) == 0

    def narrowness(self, rows: float, columns: float) -> float:
        """How much longer a product takes because its result has few rows or columns, against its multiplications.

        By a quarter at 32 columns; less so with few rows. Columns are computed `lanes` at once, and those that are not
        whole halves of these take as long as some more.

        Args:
            rows: of the result.
            columns: of the result: the cells of a row lie side by side.
        """
        wide = self.lanes * ceil(columns / self.lanes)
        narrow = self.narrow / wide + self.narrow / (4 * rows)
        more: float = max(narrow, narrow**self.slower)
        ragged = 0.0 if self.is_whole(columns) else self.ragged
        return min(self.narrowest_slower, ((1 + more) * wide + ragged) / columns - 1)

    def writing(self, cells: float, run: float = inf, runs: float = 1.0, *, gaps: bool = False) -> float:
        """Predicted microseconds to write a result whose cells are read elsewhere.

        Args:
            cells: of the result.
            run: that are read and written side by side.
            runs: at one distance from each other.
            gaps: whether there are others between those that are read.
        """
        each = 1 / (self.gaps if gaps else self.window)
        each += self.overlapping * self.beginnings(run, runs) / self.copy
        return cells * (each + (1 / self.fresh if cells > self.reused else 0.0))

    def summing(self, cells: float, run: float, *, gaps: bool = False) -> float:
        """Predicted microseconds to add up cells.

        Args:
            cells: that are read.
            run: those that are added up side by side; 1 where the cells of one sum are apart.
            gaps: whether there are others between those that are read.
        """
        if gaps:
            return cells / self.gaps
        if run <= 1:
            return cells / self.added + self.streaming(cells)
        return cells * (1 + self.sum_run / run) / self.sum

    def beginnings(self, run: float, runs: float) -> float:
        """How much longer a copy takes, a cell, because of its beginnings: in cells.

        Args:
            run: cells that are read and written at one distance from each other.
            runs: such runs at one distance from each other.
        """
        return self.run / run + self.row / (run * runs)


DEFAULT = Profile()


@lru_cache(maxsize=16)
def profile_of(device: "str | Profile" = "cpu") -> Profile:
    """The profile of a kind of device: that of `tnconv calibrate` where it was run, else the one shipped.

    Args:
        device: `"cpu"`, `"cuda"` or `"cuda:0"`; the number is not looked at. A profile is itself the answer.

    Raises:
        LoweringError: there is no profile of such a device.
    """
    if isinstance(device, Profile):
        return device
    kind = device.partition(":")[0]
    found, ours = cache_files.read(FILE, Profile), shipped_for(kind)
    rates = found.get(kind, ours)
    if rates is None:
        raise LoweringError(
            f"there is no profile of device {device!r}, only of {', '.join(sorted(shipped() | found))}; "
            f"run `tnconv calibrate --device {kind}` on it"
        )
    return rates


def shipped_for(kind: str) -> Profile | None:
    """The rates that come with the package for a kind of device as it is here: there are two for a CPU.

    Raises:
        LoweringError: `$TNCONV_PROFILE` names none of these.
    """
    every = shipped()
    named = os.environ.get(PROFILE)
    if named and named not in every:
        raise LoweringError(
            f"{PROFILE} is {named!r}, but the profiles are {', '.join(sorted(every))}; set one of these"
        )
    return every.get(WIDE if kind == "cpu" and is_wide() else kind)


def shipped() -> dict[str, Profile]:
    """The profiles by kind of device that come with the package."""
    return msgspec.json.decode(_DEFAULTS.read_bytes(), type=dict[str, Profile])
