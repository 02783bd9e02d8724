"""What ranks check together: sharded operations against the value of one process. Run in processes of their own."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import tnconv
from tnconv import ops
from tnconv.compiler.function import CompiledFunction
from tnconv.distributed import shard
from tnconv.distributed.local_function import derived_network
from tnconv.errors import TnconvError
from tnconv.ir import Axis, evaluate
from tnconv.spec import ConvSpec, ConvTransposeSpec, LinearSpec

GROUPED = ConvSpec(
    in_channels=4, out_channels=6, kernel_size=(3,), input_size=(9,), stride=2, padding=1, groups=2, bias=True
)
DILATED = ConvSpec(
    in_channels=3,
    out_channels=2,
    kernel_size=(2, 3),
    input_size=(5, 7),
    stride=(1, 2),
    padding=(0, 1),
    dilation=(2, 1),
    bias=True,
)
TRANSPOSED = ConvTransposeSpec(
    in_channels=2,
    out_channels=3,
    kernel_size=(3,),
    input_size=(5,),
    stride=2,
    padding=1,
    output_padding=1,
    bias=True,
)
CIRCULAR = ConvSpec(
    in_channels=2, out_channels=2, kernel_size=(3,), input_size=(6,), padding=1, padding_mode="circular"
)
CIRCLES = ConvSpec(  # 7 and 8 cells, of which no two or four ranks have as many; the second with a stride
    in_channels=2,
    out_channels=2,
    kernel_size=(3, 2),
    input_size=(7, 8),
    stride=(1, 2),
    padding=(1, 1),
    dilation=(1, 2),
    padding_mode="circular",
)
LINEAR = LinearSpec(in_features=5, out_features=3, bias=True)
LAYERS = (GROUPED, DILATED, TRANSPOSED, CIRCULAR, CIRCLES, LINEAR)
SIZES = {"N": 5, "V": 2}
CLOSE = 1e-12


def compiled(spec: Any, op: str, **options: Any) -> CompiledFunction | None:
    """The operation of a layer, with a size for the batch where it needs one; None where it has no such operation."""
    for more in ({}, {"batch_size": SIZES["N"]}):
        try:
            return tnconv.compile(spec, op, planner="left-to-right", **more, **options)
        except TnconvError:
            continue
    return None


def operations(spec: Any) -> Iterator[CompiledFunction]:
    """All operations of a layer."""
    found = (compiled(spec, operation.name) for operation in ops.list())
    yield from (fn for fn in found if fn is not None)


def values_of(fn: CompiledFunction, seed: int = 0) -> list[Tensor]:
    """Arguments at random."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [[evaluate(a.size, SIZES) for a in axes] for axes in fn._signature.axes.values()]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def index_names(fn: CompiledFunction) -> list[str]:
    """The indices of an operation, as it was derived."""
    return list(dict.fromkeys(i.name for term in derived_network(fn).terms for i in term.indices))


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in units of the largest value, or of one."""
    return float((found - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def faults(
    fn: CompiledFunction, mesh: DeviceMesh, shards: Mapping[str, str], lies: Sequence[Any]
) -> Iterator[str]:
    """What is wrong with a sharded call whose arguments all lie in one way."""
    given = values_of(fn)
    tensors = [
        distribute_tensor(each, mesh, placements_for(each, lies), src_data_rank=None) for each in given
    ]
    sharded = shard(fn, mesh, shards)
    found = sharded(*tensors)
    name = f"{fn.network.name} by {dict(shards)} from {lies}"
    error = distance(found.full_tensor(), fn(*given))
    if not error <= CLOSE:
        yield f"{name}: off by {error}"
    network = derived_network(fn).terms[0]
    for dim, dimension in enumerate(mesh.mesh_dim_names or ()):
        index = sharded.shards.get(dimension)
        here = found.placements[dim]
        axes = [n for n, axis in enumerate(network.output) if _is_first(index, axis)]
        if index is None:
            wanted = isinstance(here, Replicate)
        elif axes:
            wanted = here == Shard(axes[0]) or len(shards) > 1
        else:
            wanted = isinstance(here, Partial)
        if not wanted:
            yield f"{name}: is {here} along {dimension!r}"


def _is_first(name: str | None, axis: Axis) -> bool:
    long = [i.name for i in axis.indices if i.size != 1] or [i.name for i in axis.indices]
    return long[:1] == [name]


def placements_for(tensor: Tensor, lies: Sequence[Any]) -> list[Any]:
    """The placements asked for, `Replicate()` where the tensor has no such axis."""
    return [p if not isinstance(p, Shard) or p.dim < tensor.ndim else Replicate() for p in lies]


def every_index(rank: int, shape: tuple[int, ...], layers: Sequence[Any], step: int = 1) -> list[str]:
    """Shard every index of every operation, or one of `step`, from arguments that lie in any way."""
    names = ("data", "model")[: len(shape)]
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", shape, mesh_dim_names=names)
    found: list[str] = []
    number = itertools.count()
    for layer in layers:
        for fn in operations(layer):
            for chosen in itertools.permutations(index_names(fn), len(shape)):
                turn = next(number)
                if turn % (step if len(shape) == 1 else 7 * step):
                    continue
                lies = [
                    (Replicate(), Shard(0), Shard(1), Shard(2))[(turn + n) % 4] for n in range(len(shape))
                ]
                try:
                    found += faults(fn, mesh, dict(zip(chosen, names, strict=True)), lies)
                except TnconvError as error:
                    if "stands for index" not in str(error) and "is folded by" not in str(error):
                        found.append(f"{fn.network.name} by {chosen}: {error}")
    return [f"rank {rank}: {each}" for each in found]


def gradients(
    rank: int, mesh: DeviceMesh, spec: Any, op: str, shards: Mapping[str, str], **options: Any
) -> list[str]:
    """What is wrong with the gradients by all arguments."""
    fn = compiled(spec, op, training=True) or compiled(spec, op)
    assert fn is not None
    given = values_of(fn)
    single = [each.clone().requires_grad_() for each in given]
    (fn(*single) ** 2).sum().backward()
    sharded = shard(fn, mesh, shards, **options)
    tensors = [each.detach().requires_grad_() for each in sharded.distribute(*given)]
    result = sharded(*tensors).full_tensor()
    (result**2).sum().backward()
    found = []
    error = distance(result.detach(), fn(*given))
    if not error <= CLOSE:
        found.append(f"rank {rank}: {op}, {dict(shards)}, {options}: off by {error}")
    for name, one, other in zip(fn.arguments, single, tensors, strict=True):
        assert isinstance(other.grad, DTensor)
        error = distance(other.grad.full_tensor(), one.grad)
        if not error <= CLOSE:
            found.append(
                f"rank {rank}: gradient of {op} by {name}, {dict(shards)}, {options}: off by {error}"
            )
    return found
