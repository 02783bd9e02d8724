"""Every error that tnconv raises on purpose, and its warnings.

All derive from `TnconvError`; those about a bad value are also `ValueError`, so that code which knows
nothing of tnconv catches them too.
"""

import difflib
from collections.abc import Iterable

_LONGEST = 80  # characters of a name that anyone misspelled


class TnconvError(Exception):
    """Base class of every error that tnconv raises on purpose."""


class SpecError(TnconvError, ValueError):
    """A layer specification is invalid; the message has both values and what to do."""


class NetworkError(TnconvError, ValueError):
    """A network breaks a rule of the IR; the message shows it with the bad lines marked."""


class ParseError(NetworkError):
    """A text does not parse; the message shows the line and the place."""


class PassError(TnconvError):
    """A pass failed, broke its contract or changed a value that it promised to keep."""


class OperationError(TnconvError, ValueError):
    """An operation is unknown, or not defined for this source or convention."""


class PlanError(TnconvError, ValueError):
    """No plan can be made, or a plan is inconsistent."""


class LoweringError(TnconvError):
    """A step of a plan cannot be lowered."""


class ArgumentError(TnconvError, ValueError):
    """A tensor handed to a compiled function has the wrong shape, dtype or device."""


class UnknownSizeError(ArgumentError, AttributeError):
    """What is asked of a function for any size depends on the size; the message says how to give one."""


class CaptureError(TnconvError, ValueError):
    """A parameter of a model is used in a way that its curvature cannot be told from; the message names it."""


class DistributedError(TnconvError):
    """A rank waits for another one that is lost; the message says which, and how to go on."""


class PluginError(TnconvError):
    """A plug-in cannot be loaded, or two of them claim one name."""


class CacheWarning(UserWarning):
    """A file of what was measured cannot be read or written; all goes on without it, and may be measured again."""


# -- words of messages --------------------------------------------------------------------------------


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name that a misspelled one is nearest to, whatever the case; None where none is near."""
    if not isinstance(name, str) or len(name) > _LONGEST:
        return None
    found = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), found, 1)
    return found[near[0]] if near else None


def meant(name: object, known: Iterable[str]) -> str:
    """` (did you mean 'dp'?)`, for a message about a name that is not known; nothing where none is near."""
    near = closest(name, known)
    return "" if near is None else f" (did you mean {str(near)!r}?)"
