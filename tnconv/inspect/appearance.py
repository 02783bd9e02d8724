"""How a picture is to look: labels, title, sizes, colours, theme. All kinds of files take the same options."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypedDict

from tnconv.errors import TnconvError, closest, meant
from tnconv.inspect.labels import Labels, math_labels
from tnconv.inspect.mathematics import runs
from tnconv.ir import Expression

THEMES = ("light", "dark", "auto")
LIGHT = {
    "text": "#475569",
    "line": "#7c8aa0",
    "label": "#ffffff",
    "input": "#2f6fc4",
    "parameter": "#c05a33",
    "cotangent": "#7a55b8",
    "tangent": "#23805b",
    "pattern": "#253041",
    "select": "#6b6a1f",
    "rim": "#253041",
    "mark": "#f2b01e",
    "background": "none",
}
DARK = LIGHT | {
    "text": "#b6c2d3",
    "line": "#8494ab",
    "input": "#3b7fd6",
    "parameter": "#c9653d",
    "cotangent": "#8d69cc",
    "tangent": "#2c936a",
    "pattern": "#3a4759",
    "select": "#82812b",
    "rim": "#8090a6",
    "mark": "#ffc53d",
}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\Z|none\Z")

LabelOption = Mapping[str, str] | Literal["math"] | None


class PictureOptions(TypedDict, total=False):
    """What the functions that draw take as keyword arguments; `Look` says what each means."""

    labels: LabelOption
    title: bool | str
    sizes: bool
    theme: Literal["light", "dark", "auto"]
    colours: Mapping[str, str] | None


@dataclass(frozen=True)
class Look:
    """How a picture is to look.

    Args:
        labels: mathematics in place of names of nodes and indices, as in `{"k1_2": "k_1'"}`, in TeX's language without
            dollars; `"math"` for all names, as `tnconv.inspect.math_labels` makes it.
        title: whether the name of the network stands above it, or what stands there.
        sizes: whether open legs have their size: `c=64`, or `c`.
        theme: `"light"` or `"dark"` colours, or `"auto"`, those of the reader's system, which SVG alone can.
        colours: colours as `"#2f6fc4"` in place of those of the theme, by what has them: `"input"`, `"parameter"`,
            `"cotangent"`, `"tangent"`, `"pattern"`, `"select"`, `"rim"`, `"line"`, `"text"`, `"label"` (on nodes),
            `"mark"`, `"background"`, which is `"none"` unless a colour is given.

    Raises:
        TnconvError: a value is none of these; the message says what to write.
    """

    labels: LabelOption = None
    title: bool | str = True
    sizes: bool = True
    theme: Literal["light", "dark", "auto"] = "light"
    colours: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.theme not in THEMES:
            raise TnconvError(f"theme={self.theme!r} is none; the themes are {', '.join(THEMES)}")
        if not isinstance(self.title, bool | str):
            raise TnconvError(f"title={self.title!r} is no title; give a text, or False for none")
        if not isinstance(self.sizes, bool):
            raise TnconvError(
                f"sizes={self.sizes!r} is neither True nor False, which leaves sizes out; give one"
            )
        self._check_labels()
        self._check_colours()

    def _check_labels(self) -> None:
        if self.labels is None or self.labels == "math":
            return
        if not isinstance(self.labels, Mapping) or not all(isinstance(v, str) for v in self.labels.values()):
            raise TnconvError(
                f"labels={self.labels!r} are no labels; give mathematics by name, as in {{'k1': 'k_1'}}, or 'math'"
            )
        for name, tex in self.labels.items():
            if not any(run.text.strip() for run in runs(tex)):
                raise TnconvError(
                    f"labels[{name!r}] is {tex!r}, which shows nothing; write mathematics, as in 'k_1'"
                )

    def _check_colours(self) -> None:
        if not isinstance(self.colours, Mapping | None):
            raise TnconvError(
                f"colours={self.colours!r} are none; give them by name, as in {{'input': '#2f6fc4'}}"
            )
        for name, colour in (self.colours or {}).items():
            if name not in LIGHT:
                raise TnconvError(
                    f"colours has {name!r}, which has no colour; these have: {', '.join(LIGHT)}"
                )
            if not isinstance(colour, str) or not _COLOUR.match(colour):
                raise TnconvError(
                    f"colours[{name!r}] is {colour!r}; write six digits, as '#2f6fc4', or 'none'"
                )

    def palette(self, theme: str) -> dict[str, str]:
        """The colours of a theme, those of the user in their place."""
        return (DARK if theme == "dark" else LIGHT) | dict(self.colours or {})

    def labels_of(self, network: Expression) -> Labels:
        """What is written on the parts of a network."""
        given = math_labels(network) if isinstance(self.labels, str) else self.labels
        return Labels(given or {}, self.sizes)

    def title_of(self, network: Expression) -> str:
        """What stands above a network; empty where nothing does."""
        return self.title if isinstance(self.title, str) else network.name if self.title else ""


def look_of(options: Mapping[str, object], usual: Look) -> Look:
    """The look that keyword arguments ask for.

    Args:
        options: by name, as of `Look`.
        usual: what holds where nothing is said.

    Raises:
        TnconvError: there is no such option, or its value is wrong.
    """
    known = {f.name: getattr(usual, f.name) for f in fields(Look)}
    for name in options:
        if name not in known:
            near = closest(name, [*known, "pos", "highlight"])
            hint = f"did you mean {near}=?" if near else f"they are pos, highlight, {', '.join(known)}"
            raise TnconvError(f"{name}= is no option of a picture; {hint}")
    return Look(**(known | dict(options)))


def names_of(network: Expression) -> list[str]:
    """The names of all nodes and indices."""
    return list(dict.fromkeys(x.name for t in network.terms for x in (*t.nodes, *t.indices)))


def check_names(network_names: Collection[str], given: Collection[str], option: str, owner: str) -> None:
    """Refuse names that are no nodes and no indices, and what is no collection of names.

    Raises:
        TnconvError: it names the option, what it got and what there is.
    """
    if isinstance(given, str):
        raise TnconvError(f"{option}={given!r} is a str; give a collection of names, as in [{given!r}]")
    if not isinstance(given, Iterable) or not all(isinstance(name, str) for name in given):
        raise TnconvError(f"{option}={given!r} are no names; give those of nodes and indices, as in ['x']")
    unknown = sorted(set(given) - set(network_names))
    if unknown:
        raise TnconvError(
            f"{option} has {unknown[0]!r}, which is no node or index of {owner!r}"
            f"{meant(unknown[0], network_names)}; it has {', '.join(network_names)}"
        )
