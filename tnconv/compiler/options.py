"""The options of a compilation, read once: what each may be, and what to give where it is something else.

An option is one line of `Options`: its type, its default, and a reader, a function of the option's name and the value
given that returns the value to go on with, or raises.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from tnconv import plugins
from tnconv.backends.backend import ACCURACIES, COMPONENTWISE, Capability, backend_of
from tnconv.compiler.compile_cache import as_key
from tnconv.errors import LoweringError, OperationError, PlanError, meant
from tnconv.ops.conventions import check_convention
from tnconv.ops.sampled_indices import Keep, Sampling, read_keep
from tnconv.passes import Pipeline
from tnconv.passes.sample import METHODS
from tnconv.planner.effort import Search
from tnconv.planner.hints import check_hints
from tnconv.planner.memory_limit import parse_memory
from tnconv.planner.objective import Objective, argument_names, check_minimize, check_training
from tnconv.planner.search import SEARCHING, check_planner

Reader = Callable[[str, Any], Any]


def _read(reader: Reader) -> dict[str, Reader]:
    return {"read": reader}


def _by(check: Callable[[Any], Any]) -> Reader:
    """What checks a value without its name, as a reader."""
    return lambda _, value: check(value)


def _or_none(read: Reader) -> Reader:
    """A reader that leaves None as it is."""
    return lambda name, value: None if value is None else read(name, value)


def _one_of(*known: str, also: str = "") -> Reader:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise OperationError(
                f"{name}={value!r} is not known{meant(value, known)}; use {' or '.join(map(repr, known))}{also}"
            )
        return value

    return read


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise PlanError(f"{name}={value!r} is a {type(value).__name__}; give True or False")
    return bool(value)


def _device(name: str, value: object) -> str:
    try:
        return str(torch.device(value) if isinstance(value, str) else _torch_device(value))
    except (RuntimeError, TypeError) as error:
        raise LoweringError(
            f"{name}={value!r} is not a device: {str(error).splitlines()[0]}; give 'cpu', 'cuda' or a torch.device"
        ) from error


def _torch_device(value: object) -> torch.device:
    if not isinstance(value, torch.device):
        raise TypeError(f"it is a {type(value).__name__}")
    return value


def _backend(name: str, value: object) -> str:
    if not isinstance(value, str):
        known = ", ".join(map(repr, plugins.names(plugins.BACKENDS)))
        raise PlanError(f"{name}={value!r} is a {type(value).__name__}; give the name of a backend: {known}")
    if value.partition(":")[0] in ("cpu", "cuda", "mps"):
        raise PlanError(f"{name}={value!r} is a device and no backend; give device={value!r}")
    backend_of(value)
    return value


def _dtype(name: str, value: object) -> torch.dtype:
    if not isinstance(value, torch.dtype) or not (value.is_floating_point or value.is_complex):
        raise OperationError(
            f"{name}={value!r} is no floating-point or complex dtype; give one such as torch.float32 or "
            "torch.bfloat16, or leave it out"
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `tnconv.compile`, checked: see there for what they mean."""

    passes: Pipeline = field(metadata=_read(_by(Pipeline.parse)))
    planner: str = field(metadata=_read(_by(check_planner)))
    search: Search | None = field(metadata=_read(_or_none(_by(Search.read))))
    backend: str = field(metadata=_read(_backend))
    convention: str | None = field(metadata=_read(_or_none(_by(check_convention))))
    groups: str = field(metadata=_read(_one_of("block", "average")))
    bias: str = field(metadata=_read(_one_of("separate", "joint")))
    memory_limit: int | None = field(metadata=_read(_or_none(_by(parse_memory))))
    verify: str | None = field(metadata=_read(_or_none(_one_of("exact", also=" or None"))))
    hints: Mapping[str, int] = field(
        metadata=_read(_by(lambda value: check_hints({} if value is None else value)))
    )
    device: str = field(metadata=_read(_device))
    autotune: bool = field(metadata=_read(_flag))
    minimize: str = field(metadata=_read(_by(check_minimize)))
    training: bool = field(metadata=_read(_flag))
    frozen: frozenset[str] = field(metadata=_read(argument_names))
    constant: frozenset[str] = field(metadata=_read(argument_names))
    dtype: torch.dtype | None = field(metadata=_read(_or_none(_dtype)))
    accuracy: str = field(metadata=_read(_one_of(*ACCURACIES)))
    sample: Keep = field(metadata=_read(read_keep))
    sampling: str = field(metadata=_read(_one_of(*METHODS)))
    preselect: bool = field(metadata=_read(_flag))
    packed: bool = field(metadata=_read(_flag))

    @classmethod
    def read(cls, **given: Any) -> "Options":
        """The options as `tnconv.compile` was given them: all of them, in any type.

        Raises:
            TnconvError: one has another type or value than it may have, or two contradict each other.
        """
        read = {each.name: each.metadata["read"](each.name, given[each.name]) for each in fields(cls)}
        options = cls(**read)
        check_training(options.training, options.frozen, options.constant)
        _check_limit(options, given["memory_limit"])
        _check_search(options)
        _check_capabilities(options)
        _ = options.sampled  # which refuses what does not go together
        return options

    @property
    def key(self) -> Hashable:
        """All of them as a part of a key."""
        return tuple([as_key(getattr(self, name)) for name in OPTIONS])

    @property
    def sampled(self) -> Sampling:
        """What of the operation is sampled."""
        return Sampling(self.sample, self.sampling, self.preselect)

    @property
    def objective(self) -> Objective:
        """What plans are judged by."""
        return Objective.of(self.minimize, self.training, self.frozen, self.constant)


def _check_limit(options: Options, limit: object) -> None:
    """Refuse a memory limit beside options that go by something else."""
    if limit is None:
        return
    if options.autotune:
        raise PlanError(
            f"autotune=True and memory_limit={limit!r} are given together; take one: a limit keeps to the plans that "
            "fit, whatever they take"
        )
    if options.constant:
        raise PlanError(
            f"constant={sorted(options.constant)} and memory_limit={limit!r} are given together; take one: what is "
            "kept takes memory between calls, which a limit says nothing about"
        )


def _check_search(options: Options) -> None:
    """Refuse the options of a search beside a planner that does not search."""
    if options.search is not None and options.planner not in SEARCHING:
        raise PlanError(
            f"search={options.search} and planner={options.planner!r} are given together, but only "
            f"{' and '.join(map(repr, SEARCHING))} search; leave one out"
        )


def _check_capabilities(options: Options) -> None:
    """Refuse what the backend does not do."""
    has = backend_of(options.backend).capabilities
    asked = {
        Capability.ACCURACY: options.accuracy != COMPONENTWISE,
        Capability.AUTOTUNE: options.autotune,
        Capability.CONSTANT: bool(options.constant),
        Capability.DEVICE: options.device != "cpu",
        Capability.MEMORY_LIMIT: options.memory_limit is not None,
        Capability.TRAINING: options.training,
    }
    for capability, is_asked in asked.items():
        if is_asked and capability not in has:
            raise PlanError(capability.refused(options.backend))


OPTIONS = tuple(each.name for each in fields(Options))
