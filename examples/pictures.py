"""The pictures in docs/, drawn anew: `python examples/pictures.py [FOLDER]`, or `make pages`.

Those of the gallery are drawn in the manner of arXiv 2307.02275, with its letters.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import tnconv
from tnconv.inspect import math_labels, to_svg
from tnconv.ir import Expression
from tnconv.passes.rules import compose, dense, twins, window_sums

CONV = tnconv.ConvSpec(64, 128, 3, (56, 56), stride=2, padding=1)
GROUPED = replace(CONV, groups=4)
SYMBOLIC = tnconv.ConvSpec("C", "D", ("K1", "K2"), ("I1", "I2"), stride=2, padding=1)
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
LONG_TRAIN = """
network tensor_train.linear {
  index [n=N, c1=4, c2=4, c3=4, c4=4, c5=4, c6=4, d1=4, d2=4, d3=4, d4=4, d5=4, d6=4, r1=8, r2=8, r3=8, r4=8, r5=8]
  x  = input     [n, c1, c2, c3, c4, c5, c6]
  f1 = parameter [c1, d1, r1]
  f2 = parameter [r1, c2, d2, r2]
  f3 = parameter [r2, c3, d3, r3]
  f4 = parameter [r3, c4, d4, r4]
  f5 = parameter [r4, c5, d5, r5]
  f6 = parameter [r5, c6, d6]
  output [n, d1, d2, d3, d4, d5, d6]
}
"""
PAPER = {
    "x": r"\mathbf{X}",
    "weight": r"\mathbf{W}",
    "bias": r"\mathbf{b}",
    "grad_output": r"\mathbf{V}",
    "z": r"\mathbf{S}",
    "p1": r"\mathbf{\Pi}^{(1)}",
    "p2": r"\mathbf{\Pi}^{(2)}",
    "p3": r"\mathbf{\Pi}^{(3)}",
    "p": r"\mathbf{\Pi}",
    "w": r"\mathbf{W}",
    "y": r"\mathbf{Y}",
}
REWIRINGS = (
    dense.dense_pattern,
    dense.narrow_pattern,
    compose.compose_patterns,
    twins.match_twins,
    window_sums.drop_free_pattern,
)


@dataclass(frozen=True)
class Picture:
    """A picture of the documentation.

    Args:
        network: what is drawn.
        math: whether its labels are those of the paper; else the names of the network.
        title: above it; none where it is empty.
    """

    network: Expression
    math: bool = True
    title: str = ""

    @property
    def labels(self) -> dict[str, str] | None:
        """What is written in place of names."""
        return paper_labels(self.network) if self.math else None


def paper_labels(network: Expression) -> dict[str, str]:
    """The letters of the paper: bold tensors, patterns numbered above, copies with a prime."""
    found = math_labels(network)
    for name in found:
        base = name.removesuffix("_2")
        if base in PAPER:
            letter = PAPER[base].removesuffix("}") if "^" in PAPER[base] else PAPER[base]
            prime = r"\prime}" if "^" in PAPER[base] else "'"  # TeX takes one superscript
            found[name] = PAPER[base] if base == name else letter + prime
    return found


def _compiled(spec: tnconv.ConvSpec, operation: str) -> Expression:
    return tnconv.compile(spec, operation, planner="left-to-right", backend="reference").network


@cache
def pictures() -> dict[str, Picture]:
    """Each picture by file name."""
    return {
        "conv2d_forward.svg": Picture(_compiled(CONV, "forward"), False, "conv2d.forward"),
        "weight_vjp.svg": Picture(_compiled(GROUPED, "weight_vjp"), False, "conv2d.weight_vjp"),
        "kfac_reduce.svg": Picture(_compiled(CONV, "kfac_reduce"), False, "conv2d.kfac_reduce"),
        "gradient_norm.svg": Picture(_compiled(CONV, "gradient_norm"), False, "conv2d.gradient_norm"),
        "tensor_train.svg": Picture(tnconv.parse(TENSOR_TRAIN), False, "tensor_train.forward"),
        **{f"gallery/{name}.svg": picture for name, picture in gallery()},
    }


def gallery() -> Iterator[tuple[str, Picture]]:
    """The pictures that stand side by side in docs/gallery.md, by name."""
    yield "convolution", Picture(_compiled(CONV, "forward"))
    yield "with_bias", Picture(_compiled(replace(CONV, bias=True), "forward"))
    for operation in (
        "input_vjp",
        "weight_vjp",
        "unfold",
        "kfac_expand",
        "kfac_reduce",
        "ggn_block",
        "gradient_norm",
        "ntk",
    ):
        yield operation, Picture(_compiled(CONV, operation))
    yield "grouped", Picture(_compiled(GROUPED, "forward"))
    yield "symbolic", Picture(_compiled(SYMBOLIC, "forward"))
    yield "volume", Picture(_compiled(tnconv.ConvSpec(8, 16, 3, (9, 9, 9), padding=1), "forward"))
    yield "tensor_train", Picture(tnconv.parse(LONG_TRAIN))
    for rule in REWIRINGS:
        yield f"{rule.name}_before", Picture(tnconv.parse(rule.before))
        yield f"{rule.name}_after", Picture(tnconv.parse(rule.after))


def text_of(picture: Picture) -> str:
    """The picture as SVG that follows the theme of the page."""
    return to_svg(picture.network, labels=picture.labels, title=picture.title or False, theme="auto")


def main(folder: Path) -> None:
    (folder / "gallery").mkdir(exist_ok=True)
    for name, picture in pictures().items():
        (folder / name).write_text(text_of(picture), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs")
