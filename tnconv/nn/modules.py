"""What the modules share: a check of hyper-parameters before any input is there, and the way from torch's modules."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import nn

from tnconv.errors import SpecError
from tnconv.ir import as_integer
from tnconv.spec import ConvSpec
from tnconv.spec.fields import MAX_DIMS, Ints, Symbolic, check_length, spread, typed
from tnconv.spec.layer_spec import KnowsSpec, module_fields

_LARGE = 2**40


def check_dims(N: object) -> int:
    """The number of spatial dimensions.

    Raises:
        SpecError: it is no int, or too large.
    """
    dims = as_integer(N)
    if dims is None or not 1 <= dims <= MAX_DIMS:
        raise SpecError(f"N is {N!r}; give the number of spatial dimensions, an int of 1 to {MAX_DIMS}")
    return dims


def kernel(kernel_size: object, dims: int) -> tuple[int, ...]:
    """A kernel size with one int for each spatial dimension.

    Raises:
        SpecError: it is no int and no tuple of that length; torch does not repeat a tuple of one here.
    """
    found = typed("kernel_size", kernel_size, Ints)
    check_length("kernel_size", found, dims)
    return spread("kernel_size", found, dims)


def any_input(dims: int) -> tuple[int, ...]:
    """An input size that every kernel fits into: with it a spec checks all the other fields."""
    return (_LARGE,) * dims


def check_copied(module: nn.Module, methods: Sequence[str], parameters: Sequence[str] = ()) -> None:
    """Refuse a module whose value depends on more than its fields and parameters, which is all that is copied.

    Args:
        module: of one of torch's types.
        methods: that decide what it computes.
        parameters: that it has, or may have.

    Raises:
        SpecError: it has hooks, methods of its own, or parameters or buffers of other names.
    """
    name = type(module).__name__
    own = [method for method in methods if method in vars(module)]
    if own:
        raise SpecError(f"this {name} has a {own[0]!r} of its own, which cannot be copied; remove it")
    if module._forward_hooks or module._forward_pre_hooks:
        raise SpecError(f"{name} has forward hooks, which cannot be copied; remove them first")
    tensors = [found for found, _ in (*module.named_parameters(), *module.named_buffers())]
    other = sorted(set(tensors) - set(parameters))
    if other:
        raise SpecError(
            f"{name} has {', '.join(other)} where {' and '.join(parameters) or 'nothing'} is expected, as of a "
            "parametrization; remove it first"
        )


def copy_parameters(module: nn.Module, made: nn.Module, names: Sequence[str]) -> None:
    """Give a new module copies of the parameters of another, of the same dtype, device and memory format.

    Raises:
        SpecError: the shape of one is not what the fields of the module say.
    """
    for name in names:
        source: Any = getattr(module, name)
        target: Any = getattr(made, name)
        if source is None:
            continue
        if source.shape != target.shape:
            raise SpecError(
                f"{name} has shape {tuple(source.shape)} but the fields of {type(module).__name__} make it "
                f"{tuple(target.shape)}; make them agree"
            )
        setattr(made, name, nn.Parameter(source.detach().clone(), source.requires_grad))
    made.train(module.training)


def check_fixed(made: type[nn.Module], fixed: int | None, module: nn.Module, dims: int) -> None:
    """Refuse a module with another number of spatial dimensions than a class has.

    Raises:
        SpecError: they differ.
    """
    if fixed not in (None, dims):
        raise SpecError(
            f"{made.__name__} has {fixed} spatial dimension(s) but {type(module).__name__} has {dims}; take the class "
            "with that number"
        )


def symmetric(pairs: tuple[tuple[int, int], ...]) -> tuple[Any, ...]:
    """Padding with one int for each dimension, as torch's modules have it, unless left and right differ."""
    if all(left == right for left, right in pairs):
        return tuple(left for left, _ in pairs)
    return pairs


class CopiedConv:
    """A convolution that is made from the torch module that its spec represents.

    Attributes:
        represented: the spec.
        fixed: the number of dimensions of a class that does not take `N`.
    """

    represented: ClassVar[Any]
    fixed: ClassVar[int | None] = None

    @classmethod
    def from_torch(cls, module: nn.Module) -> Self:
        """A copy of a torch module of this kind, with copies of its parameters.

        Args:
            module: one of those that the spec represents, such as an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.

        Raises:
            SpecError: the module is of another type, computes something else than its type says, or has what cannot
                be copied: hooks or parametrizations.
        """
        cls.represented.check_module(module)
        check_copied(module, cls.represented.rewritable, ("weight", "bias"))
        layer: Any = module
        build: Any = cls
        dims = len(layer.kernel_size)
        check_fixed(build, cls.fixed, module, dims)
        named = module_fields(cls.represented, module) | ({} if cls.fixed else {"N": dims})
        made: Any = build(**named, device="meta")  # the parameters follow
        copy_parameters(module, made, ("weight", "bias"))
        copied: Self = made
        return copied


class OfConv(KnowsSpec):
    """A module with the fields of a convolution."""

    def spec(self, input_size: int | tuple[int, ...], batch_size: Symbolic = "N") -> ConvSpec:
        """The layer for inputs of a size, as `tnconv.compile` takes it.

        Raises:
            SpecError: the kernel does not fit into the input.
        """
        module: Any = self
        return ConvSpec(input_size=input_size, batch_size=batch_size, **module_fields(ConvSpec, module))
