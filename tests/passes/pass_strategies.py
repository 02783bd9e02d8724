"""Random networks in which the guards of the rewiring rules fire often: chains of convolutions and poolings."""

from hypothesis import strategies as st

from tnconv.ir import Index, Network, Tensor, group, pattern, product
from tnconv.ir.nodes import MODES


@st.composite
def chains(draw):
    """x -> pattern -> pattern ... with kernels that tile, touch, leave gaps, are missing, miss the input or fold."""
    nodes, free, kept = [], [], []
    depth = draw(st.integers(1, 2))
    position = Index("o0", draw(st.integers(1, 3)))
    positions = [position]
    for level in range(1, depth + 1):
        kernel = Index(f"k{level}", draw(st.integers(1, 3)))
        stride = draw(st.sampled_from([1, kernel.size, draw(st.integers(1, 4))]))
        dilation = draw(st.sampled_from([1, 1, 1, 2, -1, position.size]))
        offset = draw(st.sampled_from([0, 0, 0, 1, -1, -2, kernel.size - 1, 1 - kernel.size]))
        slack = draw(st.sampled_from([0, 0, 0, 1, 2, -1]))
        if draw(st.integers(0, 2)) == 0:  # windows that tile
            stride, dilation, offset, slack = kernel.size, 1, 0, max(slack, 0)
        reach = stride * (position.size - 1) + abs(dilation) * (kernel.size - 1) + offset + 1
        left = Index(f"i{level}", max(1, reach + slack))
        folds = (left.size, draw(st.sampled_from(list(MODES)))) if draw(st.integers(0, 3)) == 0 else ()
        terms = ((stride, position), (dilation, kernel))
        terms = terms[::-1] if draw(st.booleans()) else terms
        if draw(st.integers(0, 7)) == 0:  # every so many cells, without a kernel
            terms = ((stride, position),)
        nodes.append(pattern(f"p{level}", left, terms, offset, *folds))
        free += [kernel] if len(terms) > 1 else []
        positions.append(left)
        position = left
    channels = Index("c", draw(st.integers(1, 3)))
    batch = Index("n", draw(st.integers(1, 2)))
    axis = group(channels, position) if draw(st.booleans()) else None
    axes = (group(batch), axis) if axis else (group(batch), group(channels), group(position))
    if draw(st.booleans()):
        nodes.append(Tensor("x", "input", axes))
    elif draw(st.booleans()):
        kept.append(position)
    for kernel in free:
        use = draw(st.sampled_from(["weight", "open", "sum", "both"]))
        if use in ("weight", "both"):
            nodes.append(Tensor(f"w{kernel.name}", "parameter", (group(channels), group(kernel))))
        if use in ("open", "both"):
            kept.append(kernel)
    where = draw(st.sampled_from(["open", "sum", "cotangent"]))
    if where == "open":
        kept.append(positions[0])
    elif where == "cotangent":
        nodes.append(Tensor("dy", "cotangent", (group(batch), group(positions[0]))))
    kept = draw(st.permutations([i for i in (*kept, batch, channels) if draw(st.booleans())]))
    output = (group(*kept),) if kept and draw(st.booleans()) else tuple(group(i) for i in kept)
    network = Network("chain", tuple(nodes), output)
    return (
        network
        if product(i.size for i in network.indices) < 50_000
        else Network("chain", tuple(nodes[:1]), ())
    )
