"""KFAC as a preconditioner of any optimizer: gradients are replaced by what the inverse curvature makes of them.

pre = tnconv.optim.KFACPreconditioner(model, damping=1e-2)
with pre:
    loss = criterion(model(x), y)
loss.backward()
pre.step()
optimizer.step()
"""

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from math import sqrt
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tnconv.curvature.blocks import AnyBlock, Block
from tnconv.curvature.capture import Capture
from tnconv.curvature.example_axes import assumed
from tnconv.curvature.fisher import SEED, Fisher, one_of
from tnconv.curvature.kfac import merged
from tnconv.curvature.kronecker import KroneckerFactors
from tnconv.curvature.losses import Loss, loss_called
from tnconv.curvature.models import Model
from tnconv.curvature.processes import own_seed
from tnconv.curvature.run import Run
from tnconv.curvature.sums import Sums
from tnconv.errors import ArgumentError, CaptureError, OperationError, meant

Key = tuple[str, ...]


class KFACPreconditioner:
    """Preconditions the gradients of a module with KFAC.

    Layers are seen while it is entered, and what the empirical Fisher matrix needs is taken from the backward pass of
    the loss; other curvature is of the loss that is computed inside, with backward passes of its own, which compute no
    gradients of parameters. Nothing is left on the module. Parameters without a Kronecker product (norms, embeddings,
    what is not captured) keep their gradients. Factors are moving averages, `decay * old + (1 - decay) * new`; their
    inverses have factored damping with the ratio of Martens & Grosse 2015, sec. 6.3.

    Far from a minimum a step may be much too long: give `kl_clip` (1e-3 is usual) with the `lr` of the optimizer.

    Args:
        model: whose parameters are trained; under `DistributedDataParallel` the wrapper or what is in it. With
            `fully_shard` the factors are whole in every process, and gradients are shared out again.
        damping: added to the curvature, split over both factors.
        decay: of the factors, from 0 to below 1.
        kl_clip: the largest `lr² Σ gradient · preconditioned gradient`, a bound on the change of the model's
            distribution (Ba et al. 2017, sec. 5); what is larger is scaled down. None for no bound.
        lr: the learning rate, for `kl_clip`; a number, or a function that returns it.
        factor_interval: steps between updates of the factors.
        inverse_interval: steps between updates of the inverses.
        kfac_approx: `"expand"` or `"reduce"`.
        separate_weight_and_bias: whether a bias is a block of its own.
        groups: `"block"` or `"average"`.
        fisher_type: `"empirical"` with the labels of the data; `"mc"` with labels drawn from the model; `"type-2"` for
            the GGN, with a backward pass for each cell of an example's output. The last two are nearer to the
            curvature, and need one loss that `tnconv.curvature.kfac` knows, computed inside.
        mc_samples: labels drawn for each example.
        seed: of drawn labels; the processes of a group draw by one each, `seed + rank`.
        skip: names of parameters that keep their gradients.
        reduction: of the loss over examples, `"mean"` or `"sum"`; seen where `fisher_type` is not `"empirical"`.
        process_group: of `torch.distributed`, over which factors are averaged; inverses are shared out by
            predicted work.

    Attributes:
        factors: the curvature; None before the first step.
        steps: how many steps were taken.

    Raises:
        OperationError: an option is out of range or unknown.
        CaptureError: there are no parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        damping: float = 1e-3,
        decay: float = 0.95,
        kl_clip: float | None = None,
        lr: float | Callable[[], float] = 1.0,
        factor_interval: int = 1,
        inverse_interval: int = 10,
        kfac_approx: str = "expand",
        separate_weight_and_bias: bool = False,
        groups: str = "block",
        fisher_type: str = "empirical",
        mc_samples: int = 1,
        seed: int = SEED,
        skip: Collection[str] = (),
        reduction: str = "mean",
        process_group: Any = None,
    ) -> None:
        one_of("kfac_approx", kfac_approx, ("expand", "reduce"))
        one_of("groups", groups, ("block", "average"))
        one_of("reduction", reduction, ("mean", "sum"))
        one_of("fisher_type", fisher_type, ("empirical", "mc", "type-2"))
        _check("damping", damping, damping > 0, "a positive number")
        _check("decay", decay, 0 <= decay < 1, "a number of at least 0 and below 1")
        _check("kl_clip", kl_clip, kl_clip is None or kl_clip > 0, "a positive number or None")
        for name, every in (("factor_interval", factor_interval), ("inverse_interval", inverse_interval)):
            _check(name, every, isinstance(every, int) and every > 0, "an int of at least 1")
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        unknown = sorted(set(skip) - set(names))
        if unknown:
            raise CaptureError(
                f"skip names {unknown[0]!r}, which is no parameter that requires gradients"
                f"{meant(unknown[0], names)}; those are "
                f"{', '.join(map(repr, names))}"
            )
        self.model = model
        self.damping, self.decay, self.kl_clip, self.lr = damping, decay, kl_clip, lr
        self.factor_interval, self.inverse_interval = factor_interval, inverse_interval
        self.separate, self.groups, self.reduce = separate_weight_and_bias, groups, kfac_approx == "reduce"
        self.reduction, self.process_group = reduction, process_group
        self.fisher = Fisher(fisher_type, mc_samples, own_seed(seed, process_group))
        self.factors: KroneckerFactors | None = None
        self.steps = 0
        self._tracked = Model.of(model, [name for name in names if name not in set(skip)])
        self._inverses: dict[Key, AnyBlock] = {}
        self._passes: list[_Pass] = []
        self._open: _Pass | None = None
        self._generator: torch.Generator | None = None

    # -- a forward pass ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """See the layers of a forward pass, if factors are due."""
        if self.steps % self.factor_interval == 0:
            self._open = _Pass(self._tracked, self.fisher.kind == "empirical")
            self._open.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See no more; a pass that failed does not count.

        Raises:
            ArgumentError: the curvature is of the loss, which was not computed inside.
        """
        if self._open is None:
            return
        seen, self._open = self._open, None
        seen.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is not None:
            return
        if not seen.empirical:
            if self._generator is None and self.fisher.kind == "mc":
                self._generator = self.fisher.generator(seen.output.device)
            seen.compute(self.fisher, self._generator)
        self._passes.append(seen)

    # -- a step ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """Update what is due, and replace the gradients of the parameters.

        Raises:
            ArgumentError: there are no factors, as no forward pass was seen, or no backward pass followed.
        """
        if self._passes:
            self._update()
        if self.factors is None:
            raise ArgumentError(
                "there are no factors; compute the loss inside `with preconditioner:` and call loss.backward() first"
            )
        if not self._inverses or self.steps % self.inverse_interval == 0:
            self._invert()
        self._replace()
        self.steps += 1

    def _update(self) -> None:
        """Add the passes since the last step to the factors."""
        passes, self._passes = self._passes, []
        begin = self.factors if self.process_group is None and len(passes) == 1 else None
        sums = Sums(self._tracked, self.separate, self.groups, self.reduce, "skip", begin, self.decay)
        for seen in passes:
            if not any(seen.grads):
                raise ArgumentError(
                    "a forward pass was seen but no backward pass; call loss.backward() before step()"
                )
            passed, terms, places = seen.run()
            layers, blocks = sums.begin(passed, terms)
            for grads in seen.grads:
                sums.add_gradients(layers, blocks, [grads[place] for place in places])
        if (
            self.fisher.kind == "empirical" and self.reduction == "mean"
        ):  # gradients are of the mean over a pass
            for key in sums.outputs:
                sums.output_units[key] *= (sums.n / len(passes)) ** 2
        new = sums.factors(None, None, "mean", self.fisher, self.process_group)
        self.factors = new if self.factors is None else merged(self.factors, new, self.decay)

    def _invert(self) -> None:
        assert self.factors is not None
        blocks = self.factors.blocks
        if self.process_group is None:
            self._inverses = {key: self._inverted(block) for key, block in blocks.items()}
            return
        group = self.process_group
        rank, owners = dist.get_rank(group), shared_out(blocks, dist.get_world_size(group))
        made: dict[Key, AnyBlock] = {}
        # With one layout in all processes, or products are rounded differently.
        for key, block in blocks.items():
            if owners[key] == rank:
                own = self._inverted(block)
                made[key] = own.of({name: t.contiguous() for name, t in own.tensors.items()})
            else:
                made[key] = block.of({name: t.new_empty(t.shape) for name, t in block.tensors.items()})
        for key, block in made.items():
            for tensor in block.tensors.values():
                dist.broadcast(tensor, dist.get_global_rank(group, owners[key]), group=group)
        self._inverses = made

    def _inverted(self, block: AnyBlock) -> AnyBlock:
        return block.inverse(self.damping, heuristic=True)

    def _replace(self) -> None:
        parameters = self._tracked.parameters
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        for key, inverse in self._inverses.items():
            grads = [grad for grad in (parameters[name].grad for name in key) if grad is not None]
            if len(grads) < len(key):
                continue
            whole = [_whole(grad) for grad in grads]
            found = inverse.apply([grad.unsqueeze(-1) for grad in whole])
            made += [(own, old, new.squeeze(-1)) for own, old, new in zip(grads, whole, found, strict=True)]
        if self._inverses and not made:
            raise ArgumentError(
                "no parameter with factors has a gradient; call loss.backward() before step(), and build the "
                "preconditioner behind what exchanges parameters, such as fully_shard"
            )
        factor = self._clip(made)
        for own, _, new in made:
            own.copy_(_shared_as(own, new if factor == 1 else new.mul_(factor)))

    def _clip(self, made: list[tuple[Tensor, Tensor, Tensor]]) -> float:
        if self.kl_clip is None or not made:
            return 1.0
        lr = self.lr() if callable(self.lr) else self.lr
        change = lr**2 * sum(float((old * new).sum()) for _, old, new in made)
        return min(1.0, sqrt(self.kl_clip / change)) if change > 0 else 1.0

    # -- files -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Factors and the number of steps; inverses are made anew."""
        return {"steps": self.steps, "factors": None if self.factors is None else self.factors.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.steps = state["steps"]
        saved = state["factors"]
        self.factors = None if saved is None else KroneckerFactors.from_state_dict(saved)
        self._inverses = {}
        self._passes = []


class _Pass(Capture):
    """A forward pass: its layers, the loss, and gradients at the outputs of layers.

    Args:
        model: whose pass it is.
        empirical: whether the gradients are those of the backward pass that follows; else `compute` makes them.

    Attributes:
        grads: for each column or sample, by the place of the call.
        losses: what `loss_called` says of each.
    """

    def __init__(self, model: Model, empirical: bool) -> None:
        first: dict[int, Tensor] = {}
        super().__init__(model.parameters, model.current, _keeper(first) if empirical else None)
        self.empirical = empirical
        self.grads = [first] if empirical else []
        self.losses: list[tuple[Loss, Tensor, Any]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute a call, and record it if it is of a layer or the loss."""
        result = super().__torch_function__(func, types, args, kwargs)
        if not self.empirical:
            found = loss_called(func, args, kwargs or {})
            if found is not None:
                self.losses.append(found)
        return result

    @property
    def output(self) -> Tensor:
        """What the loss is of."""
        if len(self.losses) != 1:
            raise ArgumentError(
                f"{len(self.losses)} losses were computed inside `with preconditioner:` but the curvature is of one; "
                "compute one nn.MSELoss, nn.CrossEntropyLoss or nn.BCEWithLogitsLoss there, or give "
                "fisher_type='empirical'"
            )
        return self.losses[0][1]

    def compute(self, fisher: Fisher, generator: torch.Generator | None) -> None:
        """The gradients of the curvature, with backward passes over the layers' outputs."""
        loss, output, y = self.losses[0]
        passed = Run(output, tuple(self.calls), (), {})
        for cotangent, _ in fisher.cotangents(loss, passed, y, generator):
            self.grads.append(dict(enumerate(passed.gradients(cotangent, retain=True))))

    def run(self) -> tuple[Run, float, list[int]]:
        """The pass, its loss terms, and the places of the calls that count."""
        missing = self.missing()
        there = self.grads[0]
        places = [
            place
            for place, call in enumerate(self.calls)
            if not set(call.names) & set(missing) and place in there
        ]
        calls = tuple(self.calls[place] for place in places)
        if self.empirical:
            n = calls[0].shape[0] if calls else 1
            terms = float(n)
        else:
            loss, output, y = self.losses[0]
            n, terms = len(output), loss.terms(output.detach(), y)
        return Run(torch.empty(n), calls, tuple(assumed(call, n) for call in calls), missing), terms, places


def _keeper(grads: dict[int, Tensor]) -> Callable[[int, Tensor], None]:
    """What lets the gradient of the output of a call be kept; it holds nothing of the pass, which would hold it."""

    def seen(place: int, output: Tensor) -> None:
        def keep(grad: Tensor) -> None:
            grads[place] = grads[place] + grad if place in grads else grad.detach()

        output.register_hook(keep)  # type: ignore[no-untyped-call]

    return seen


def shared_out(blocks: Mapping[Key, AnyBlock], processes: int) -> dict[Key, int]:
    """Which process inverts which block: the most work first, to the one that has least."""
    work = {
        key: sum(t.shape[0] * t.shape[-1] ** 3 for t in block.tensors.values())
        if isinstance(block, Block)
        else 0
        for key, block in blocks.items()
    }
    loads, owners = [0] * processes, {}
    for key in sorted(work, key=lambda k: (-work[k], k)):
        least = loads.index(min(loads))
        owners[key] = least
        loads[least] += work[key]
    return owners


def _whole(grad: Any) -> Tensor:
    found: Tensor = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


def _shared_as(grad: Any, new: Tensor) -> Tensor:
    """A tensor shared out as a gradient is."""
    if not hasattr(grad, "full_tensor"):
        return new
    distributed = importlib.import_module(
        "torch.distributed.tensor"
    )  # takes 0.3 s; here it is imported already
    found: Tensor = distributed.distribute_tensor(new, grad.device_mesh, grad.placements)
    return found


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise OperationError(f"{name} is {value!r}; give {wanted}")
