"""A weight gradient with the roles of image and gradient exchanged."""

from tnconv.ir import Pattern
from tnconv.planner.decompose.correlations import OUTPUT, is_kernel
from tnconv.planner.decompose.decomposition import Writer, decomposition
from tnconv.planner.plan import Step


@decomposition(accuracy="componentwise")
def mirrored_gradient(step: Step, writer: Writer) -> tuple[Step, ...] | None:
    """A weight gradient at stride 1 is one of the gradient as image, with the kernel in reverse order.

    With `l = K - 1 - k`, `i = o + d*k - p` is `o = i + d*l - (d*(K - 1) - p)`. So the channels of the image are those
    of the result that a library has side by side: that pays where the output has few. With groups there is nothing to
    gain, and where the new padding would be negative, cells would have to be left out.

    Before:
        plan example {
          argument x [4, 8, 6]
          argument grad_output [4, 2, 6]
          index [n=4, c=8, d=2, i=6, k=3, o=6]
          w[d, c, k] = grad_output[n, d, o] * x[n, c, i] * [i = o + k - 1]
          return w
        }
    After:
        plan example {
          argument x [4, 8, 6]
          argument grad_output [4, 2, 6]
          index [n=4, c=8, d=2, i=6, k=3, k_mirrored:k=3, o=6]
          w_mirrored[d, c, k_mirrored] = grad_output[n, d, o] * x[n, c, i] * [o = i + k_mirrored - 1]
          w[d, c, k] = w_mirrored[d, c, k_mirrored] * [k_mirrored = -k + 2]
          return w
        }
    """
    found, at = writer.reading.correlations, writer.reading.places
    if found is None or found[0].at[found[0].image] == OUTPUT:
        return None
    image, gradient = found[0].at[found[0].image], 1 - found[0].at[found[0].image]
    related = {i for c in found for i in c.at}
    alone = [[i for i, spots in at.items() if spots == (p, OUTPUT) and i not in related] for p in (0, 1)]
    grouped = any(spots == (0, 1, OUTPUT) for spots in at.values())
    if grouped or writer.setting.count(alone[gradient]) >= writer.setting.count(alone[image]):
        return None
    if not is_kernel(found, OUTPUT, gradient):
        return None
    mirrored, flips, names = [], [], {}
    for number, each in enumerate(found, 1):
        (stride, position), (dilation, tap) = each.term(gradient), each.term(OUTPUT)
        around = dilation * (tap.size - 1) + each.offset
        if stride != 1 or around < 0:
            return None
        names[tap] = turned = writer.index(tap, "mirrored")
        terms = ((1, each.image), (dilation, turned))
        mirrored.append(Pattern(f"r{number}", position, terms, -around))
        flips.append(Pattern(f"r{number}", turned, ((-1, tap),), tap.size - 1))
    legs = [i for axis in step.output for i in axis.indices if at[i] != (OUTPUT,) or i in names]
    made = writer.add("mirrored", step.operands, mirrored, [names.get(i, i) for i in legs])
    return writer.last([made], flips)
