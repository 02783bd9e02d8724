"""The pictures in docs/, drawn anew: `python examples/pictures.py [FOLDER]`, or `make pages`."""

import sys
from pathlib import Path

import tnconv
from tnconv.inspect import to_svg
from tnconv.ir import Expression

CONV = tnconv.ConvSpec(64, 128, 3, (56, 56), stride=2, padding=1)
GROUPED = tnconv.ConvSpec(64, 128, 3, (56, 56), stride=2, padding=1, groups=4)
TENSOR_TRAIN = """
network tensor_train.forward {
  index [n=N, c1=8, c2=8, d1=8, d2=16, i1=56, i2=56, k1=3, k2=3, o1=56, o2=56, r1=16, r2=16]
  x      = input     [n, (c1 c2), i1, i2]
  p1     = pattern   [i1 = o1 + k1 - 1]
  p2     = pattern   [i2 = o2 + k2 - 1]
  f1     = parameter [d1, c1, r1]
  f2     = parameter [r1, d2, c2, r2]
  kernel = parameter [r2, k1, k2]
  output [n, (d1 d2), o1, o2]
}
"""


def pictures() -> dict[str, Expression]:
    """The network of each picture, by file name."""
    return {
        "conv2d_forward.svg": tnconv.compile(CONV, "forward").network,
        "weight_vjp.svg": tnconv.compile(GROUPED, "weight_vjp").network,
        "kfac_reduce.svg": tnconv.compile(CONV, "kfac_reduce").network,
        "gradient_norm.svg": tnconv.compile(CONV, "gradient_norm").network,
        "tensor_train.svg": tnconv.parse(TENSOR_TRAIN),
    }


def main(folder: Path) -> None:
    for name, network in pictures().items():
        (folder / name).write_text(to_svg(network), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs")
