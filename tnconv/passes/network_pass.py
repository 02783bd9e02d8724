"""What a pass is: a frozen dataclass whose fields are its options and whose text parses back.

    @register_pass
    @dataclass(frozen=True)
    class Rename(Pass):
        name: ClassVar[str] = "rename"
        to: str = "network"

        def apply(self, network: Network) -> PassResult:
            renamed = network.rename(self.to)
            return PassResult(renamed, changed=renamed != network)

`str(Rename(to="a"))` is `rename{to=a}`. A pass sees one network at a time: the pipeline maps it over the
terms of a sum (unless `whole` is set), verifies what comes back, and checks the value where it is asked to.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from tnconv import plugins
from tnconv.errors import PassError, PluginError, meant
from tnconv.ir import Expression, Network
from tnconv.passes.pass_text import PRESETS, check_value, format_pass, read_value, split_pass

Array = np.ndarray[Any, Any]
Evaluate = Callable[[Expression, dict[str, Array]], Array]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z", re.ASCII)


@dataclass(frozen=True)
class PassResult:
    """What a pass hands back.

    Args:
        network: the new network or sum; the very one it was given if nothing changed.
        changed: whether `network` differs from what was given. The pipeline checks it.
        notes: what happened, one short line each.
        fired: each rule that was applied, by name, and how often.
    """

    network: Expression
    changed: bool
    notes: tuple[str, ...] = ()
    fired: tuple[tuple[str, int], ...] = ()


class Pass:
    """A named transformation of a network. Subclass it with a frozen dataclass.

    Attributes:
        name: in texts and in the registry.
        preserves_value: whether the result has the value of what was given, as a rewriting has.
        check_cells: how many combinations of index values the exact check may try.
        whole: whether `apply` takes the whole expression, as a product of sums must.
    """

    name: ClassVar[str]
    preserves_value: ClassVar[bool] = False
    check_cells: ClassVar[int] = 4000
    whole: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for option, hint in _options(kind).items():
            what = f"option {option!r} of pass {self.name!r}"
            object.__setattr__(self, option, check_value(getattr(self, option), hint, what))

    def apply(self, network: Network) -> PassResult:
        """Transform one network. Pure: the same network gives the same result."""
        raise NotImplementedError(f"pass {self.name!r} has no apply")

    def requires(self, network: Network) -> None:
        """Raise PassError if the pass is not defined for `network`."""

    def ensures(self, before: Network, after: Expression) -> None:
        """Raise PassError if the pass did not do what it promises."""

    def prepare(self, expression: Expression) -> tuple[Self, tuple[Network, ...]]:
        """The pass and the terms it is applied to, chosen in view of the whole expression.

        A derivative leaves out the terms that do not depend on the argument; a pass whose options follow
        from the expression fills them in.

        Raises:
            PassError: the pass is not defined for the expression.
        """
        return self, expression.terms

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the size symbols in the options."""
        return ()

    def bind(self, values: Mapping[str, int]) -> Self:
        """The pass with integers in place of the size symbols in its options."""
        return self

    def expected(self, before: Expression, arguments: dict[str, Array], evaluate: Evaluate) -> Array | None:
        """The value that the result must have, by a route of its own; None if there is no oracle.

        Args:
            before: what the pass was given, with integer sizes.
            arguments: an integer array for every argument of the result and of `before`; for conjugates and passes
                that make them also complex arrays of integer parts.
            evaluate: the value of an expression, exactly.
        """
        return evaluate(before, arguments) if self.preserves_value else None

    def __str__(self) -> str:
        return format_pass(self.name, self)


PassClass = TypeVar("PassClass", bound=type[Pass])


@lru_cache(maxsize=256)
def _options(kind: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(kind):
        raise PassError(f"pass {kind.__name__} is not a dataclass; decorate it with @dataclass(frozen=True)")
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def available() -> tuple[str, ...]:
    """The names of all passes: built in, of installed distributions, registered."""
    return plugins.names(plugins.PASSES)


def get(name: str) -> type[Pass]:
    """The class of the pass called `name`.

    Raises:
        PassError: there is none, or what is registered under the name is not a pass.
        PluginError: it cannot be imported.
    """
    if name not in plugins.names(plugins.PASSES):
        raise PassError(
            f"there is no pass {name!r}{meant(name, (*available(), *PRESETS))}; the passes are {', '.join(available())}"
        )
    return _check_class(plugins.get(plugins.PASSES, name), name)


def register_pass(kind: PassClass) -> PassClass:
    """Add a pass for the running process, under its `name`; usable as a decorator.

    Raises:
        PassError: it is not a frozen dataclass that subclasses `Pass`, or its name is taken.
    """
    _check_class(kind, getattr(kind, "name", None))
    try:
        plugins.register(plugins.PASSES, kind.name, kind)
    except PluginError as error:
        raise PassError(str(error)) from error
    return kind


def _check_class(kind: Any, name: object) -> type[Pass]:
    if not (isinstance(kind, type) and issubclass(kind, Pass)):
        raise PassError(f"{kind!r} is not a pass; subclass tnconv.passes.Pass")
    if not isinstance(name, str) or not _NAME.match(name) or kind.__dict__.get("name") != name:
        raise PassError(
            f"pass {kind.__name__} has name {getattr(kind, 'name', None)!r} but is registered as {name!r}; "
            'write name: ClassVar[str] = "letters_digits"'
        )
    if not (dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen):
        raise PassError(
            f"pass {kind.__name__} is not a frozen dataclass; decorate it with @dataclass(frozen=True)"
        )
    return kind


def parse_pass(text: str) -> Pass:
    """Read `batch{index=v, over=[x]}` as a pass.

    Raises:
        PassError: the text is no pass, or the pass or an option does not exist or has a wrong value.
    """
    name, given = split_pass(text)
    kind: Any = get(name)
    options = _options(kind)
    unknown = [key for key in given if key not in options]
    if unknown:
        raise PassError(
            f"pass {name!r} has no option {unknown[0]!r}{meant(unknown[0], options)}; "
            f"it has {', '.join(options) or 'none'}"
        )
    needed = [
        f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.name not in given
    ]
    if needed:
        raise PassError(f"pass {name!r} needs option {needed[0]!r}; write {name}{{{needed[0]}=VALUE}}")
    made: Pass = kind(**{key: read_value(value, options[key]) for key, value in given.items()})
    return made
