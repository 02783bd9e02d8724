"""Raw sums of Kronecker factors over batches, by block; scaled once, at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from tnconv.curvature.blocks import AnyBlock, Block, DiagonalBlock, Place
from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.factor import Factor
from tnconv.curvature.fisher import Fisher
from tnconv.curvature.kronecker import KroneckerFactors
from tnconv.curvature.losses import Loss
from tnconv.curvature.matrix import Matrix
from tnconv.curvature.models import Model
from tnconv.curvature.processes import add_up, totals
from tnconv.curvature.run import Run
from tnconv.errors import ArgumentError, CaptureError
from tnconv.functional.packed import pack_triangle, unpack_triangle

Blocks = Mapping[tuple[str, ...], tuple[int, ...]]  # the places of the calls of each block


@dataclass(slots=True)
class Sums:
    """Raw sums over batches, by block; scaled once at the end.

    Args:
        model: with its parameters.
        separate: whether a bias is a block of its own.
        groups: `"block"` or `"average"`.
        reduce: whether positions are summed first.
        unsupported: see `kfac`.
        into: factors that input factors are written into.
        decay: of these, for a single batch; None where they count as the data that they are of.
        packed: whether sums are lower triangles until the end.

    Attributes:
        units: by block, what its input factor is to be multiplied with, so that it is the sum over examples of the
            means over positions: a sum over batches is added in place without another pass over the factor.
        output_units: by block, what its gradient factor is to be multiplied with, so that it is the raw sum.
        generator: of labels that are drawn.
        shared: of a bias, the block of its weight, which has the same gradient factor.
    """

    model: Model
    separate: bool
    groups: str
    reduce: bool
    unsupported: str
    into: KroneckerFactors | None = None
    decay: float | None = None
    packed: bool = False
    units: dict[tuple[str, ...], float] = field(default_factory=dict)
    output_units: dict[tuple[str, ...], float] = field(default_factory=dict)
    places: dict[tuple[str, ...], Place] = field(default_factory=dict)
    inputs: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    outputs: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    diagonals: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    generator: Generator | None = None
    n_into: float = 0.0
    n: float = 0.0
    terms: float = 0.0

    def add(self, passed: Run, fisher: Fisher, loss: Loss, y: Any) -> None:
        """Add a batch."""
        if fisher.kind == "mc" and self.generator is None:
            self.generator = fisher.generator(passed.output.device)
        layers, blocks = self.begin(passed, loss.terms(passed.values, y))
        if not self._cellwise(layers):
            layers, passed = layers.without_inputs(), passed.without_inputs()
        for cotangent, last in fisher.cotangents(loss, passed, y, self.generator):
            self.add_gradients(layers, blocks, passed.gradients(cotangent, retain=not last))
        if fisher.kind == "forward-only":
            self._identities(layers, blocks)

    def begin(self, passed: Run, terms: float) -> tuple[Layers, Blocks]:
        """Add the inputs of a batch; what is needed to add gradients is returned.

        Args:
            passed: the forward pass.
            terms: of the loss, over the batch.
        """
        self.n += passed.n
        self.terms += terms
        self.left |= passed.left
        layers = Layers.of(passed)
        blocks = self.blocks_of(layers)
        if self.into is not None and self.n == passed.n:
            self._begin(self.into, blocks, passed.n)
        for key, calls in blocks.items():
            if passed.n and layers.weights.get(key[0]):
                self._add_input(layers, key, calls, passed.n)
        return layers, blocks

    def add_gradients(self, layers: Layers, blocks: Blocks, found: Sequence[Tensor]) -> None:
        """Add gradients at the outputs of all calls."""
        z, cellwise = layers.gradients(found), self._cellwise(layers)
        del found
        first: dict[tuple[int, ...], tuple[str, ...]] = {}
        last = {place: key for key, calls in blocks.items() for place in calls}
        for key, calls in blocks.items():
            if first.setdefault(calls, key) == key:
                self._add_output(layers, key, calls, z)
            else:  # a weight and its bias have one
                self.shared[key] = first[calls]
            for place in calls:
                if last[place] == key and not cellwise:  # what is done with makes room for factors
                    z[place] = z[place].new_empty(0)
        for name in cellwise:
            square = layers.rows(name, [z], self.model.parameters[name].shape).square().sum((0, 1))
            _accumulate(self.diagonals, name, square)

    # -- blocks ------------------------------------------------------------------------------------------

    def blocks_of(self, layers: Layers) -> dict[tuple[str, ...], tuple[int, ...]]:
        """The blocks with a Kronecker product: the names of their parameters, and the places of their calls.

        Raises:
            CaptureError: a parameter has none, and is not to be left out.
        """
        found: dict[tuple[str, ...], tuple[int, ...]] = {}
        refused: dict[str, str] = {}
        for name in self.model.parameters:
            if name in self.left:
                continue
            weights, biases = layers.weights.get(name, []), layers.biases.get(name, [])
            why = self._refusal(layers, weights, biases)
            if why is not None:
                refused[name] = why
                continue
            key: tuple[str, ...] = (name,)
            if weights and not self.separate:
                bias = self._joined(layers, weights)
                key = (name,) if bias is None else (name, bias)
            elif biases and not self.separate and self._joined(layers, self._of_bias(layers, biases)) == name:
                continue
            found[key] = tuple(weights or biases)
            if key not in self.places:
                self._place(key, layers, found[key], bool(weights))
        self._unsupported(refused)
        return found

    def _of_bias(self, layers: Layers, biases: list[int]) -> list[int]:
        """The calls of the weight that a bias belongs to, if that is one."""
        weight = layers.uses[biases[0]].call.weight
        return [] if weight is None else layers.weights[weight]

    def _joined(self, layers: Layers, weights: list[int]) -> str | None:
        """The bias that is a column of a weight: that of all its calls, and of no others."""
        names = {layers.uses[p].call.bias for p in weights}
        bias = next(iter(names)) if len(names) == 1 else None
        return bias if bias is not None and layers.biases[bias] == weights else None

    def _place(self, key: tuple[str, ...], layers: Layers, calls: tuple[int, ...], weight: bool) -> None:
        use = layers.uses[calls[0]]
        assert isinstance(use, Matrix)
        shapes = tuple(tuple(self.model.parameters[name].shape) for name in key)
        blocks = 1 if self.groups == "average" else use.groups
        if weight:
            self.places[key] = Place(key, shapes, use.place, blocks)
        else:
            self.places[key] = Place(key, shapes, None, blocks, use.call.weight)

    def _refusal(self, layers: Layers, weights: list[int], biases: list[int]) -> str | None:
        """Why no Kronecker product is made for a parameter; None if one is."""
        uses = [layers.uses[p] for p in (*weights, *biases)]
        matrices = [use for use in uses if isinstance(use, Matrix)]
        for use in matrices:
            if use.refusal is not None:
                return f"it is a factor of a weight, which no Kronecker product is made for ({use.refusal})"
        if len(matrices) < len(uses) or (weights and biases) or _differ(matrices):
            ops = sorted({use.call.op for use in uses})
            said = " and ".join("a norm or another scale" if op == "scale" else op for op in ops)
            return f"it is a parameter of {said}, which no Kronecker product is made for"
        several = len(matrices) > 1 or matrices[0].images > 1
        if self.reduce and several and isinstance(matrices[0].spec, Factor):
            return (
                "it is a factor of a weight with several calls or images for each example, which kfac_approx='expand' "
                "alone makes a Kronecker product for"
            )
        return None

    def _unsupported(self, refused: Mapping[str, str]) -> None:
        """Name the parameters without a Kronecker product, or leave them out."""
        if self.unsupported == "raise" and refused:
            lines = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
            raise CaptureError(
                f"{len(refused)} of the parameters have no Kronecker product; leave them out of params, or give "
                f"unsupported='skip' or 'diagonal':{lines}"
            )
        if self.unsupported == "skip":
            self.left |= refused

    def _cellwise(self, layers: Layers) -> list[str]:
        if self.unsupported != "diagonal":
            return []
        covered = {name for key in self.places for name in key}
        return [name for name in self.model.parameters if name not in covered and name not in self.left]

    # -- factors -----------------------------------------------------------------------------------------

    def _begin(self, into: KroneckerFactors, blocks: Mapping[tuple[str, ...], Any], n: int) -> None:
        """Let the input factors begin with those that are there."""
        self.n_into = into.num_data if self.decay is None else self.decay * n / (1 - self.decay)
        for key in blocks:
            block = into.blocks.get(key)
            if not isinstance(block, Block) or not block.place.is_of(self.places[key]):
                raise ArgumentError(
                    f"into has no block {key} with a Kronecker product of this layer; it has {list(into.blocks)}; give "
                    "factors of the same model and options"
                )
        for key in blocks:
            A = into.blocks[key].tensors.get("A")
            if A is not None:
                self.inputs[key], self.units[key] = A, self.n_into

    def _add_input(self, layers: Layers, key: tuple[str, ...], calls: tuple[int, ...], n: int) -> None:
        """Add the input factor of a batch of n examples, as a mean over them."""
        uses = _matrices(layers, calls)
        there = self.inputs.get(key)
        beta = self.units.get(key, 0.0) / n
        self.units[key] = n
        if len(uses) == 1 and uses[0].images == 1:
            function = self._function(uses[0], key)
            if there is None:
                self.inputs[key] = function(uses[0].x)
            else:
                function(uses[0].x, out=there, beta=beta)
            return
        found = self._of_several(uses, key)
        self.inputs[key] = found if there is None else there.mul_(beta).add_(found)

    def _function(self, use: Matrix, key: tuple[str, ...], convention: str = "kfac") -> Callable[..., Tensor]:
        """What computes the input factor of a call."""
        op = "kfac_reduce" if self.reduce else "kfac_expand"
        bias = "joint" if len(key) == 2 else "separate"
        return use.function(op, convention=convention, groups=self.groups, bias=bias, packed=self.packed)

    def _of_several(self, uses: list[Matrix], key: tuple[str, ...]) -> Tensor:
        """The input factor of several calls or images, which are positions of one layer."""
        n, t = uses[0].n, sum(use.positions for use in uses)
        if not self.reduce:
            parts = [self._function(use, key, "sum")(use.x) for use in uses]
            return torch.stack(parts).sum(0).mul_(1 / (n * t))
        sums = torch.stack([use.input_sums(self.groups == "average") for use in uses]).sum(0)
        if len(key) == 2:
            sums = torch.cat([sums, sums.new_full((*sums.shape[:2], 1), t)], 2)
        return self._kept(torch.einsum("nga,ngb->gab", sums, sums).mul_(1 / (n * t * t)))

    def _kept(self, whole: Tensor) -> Tensor:
        """A factor as it is kept until the end."""
        return pack_triangle(whole) if self.packed else whole

    def _add_output(
        self, layers: Layers, key: tuple[str, ...], calls: tuple[int, ...], z: list[Tensor]
    ) -> None:
        """Add the sum of the gradient factor over a batch."""
        uses, there = _matrices(layers, calls), self.outputs.get(key)
        n, unit = uses[0].n, self.output_units.get(key, 1.0)
        if n and len(uses) == 1 and uses[0].images == 1:
            op = "kfac_grad_reduce" if self.reduce else "kfac_grad_expand"
            options = {"convention": "kfac", "groups": self.groups, "packed": self.packed}  # the sum over 1/n
            function = uses[0].function(op, **options)
            if there is None:
                self.outputs[key] = function(z[calls[0]])
            else:
                function(z[calls[0]], out=there, beta=unit / n)
            self.output_units[key] = n
            return
        found = self._output(uses, calls, z)
        self.outputs[key] = found if there is None else found.add_(there, alpha=unit)
        self.output_units[key] = 1.0

    def _output(self, uses: list[Matrix], calls: tuple[int, ...], z: list[Tensor]) -> Tensor:
        """The raw sum of the gradient factor over a batch, of several calls or images."""
        if not self.reduce:
            parts = [
                use.function("kfac_grad_expand", convention="sum", groups=self.groups, packed=self.packed)(
                    z[p]
                )
                for use, p in zip(uses, calls, strict=True)
            ]
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        sums = torch.stack([use.bias_rows([z[p]])[0] for use, p in zip(uses, calls, strict=True)]).sum(0)
        blocks = 1 if self.groups == "average" else uses[0].groups
        sums = sums.reshape(len(sums), blocks, -1)
        return self._kept(torch.einsum("nga,ngb->gab", sums, sums))

    def _identities(self, layers: Layers, blocks: Mapping[tuple[str, ...], tuple[int, ...]]) -> None:
        for key, calls in blocks.items():
            use = layers.uses[calls[0]]
            place = self.places[key]
            assert isinstance(use, Matrix)
            rows = use.outs // place.groups
            like = self.model.parameters[key[0]]
            eye = torch.eye(rows, dtype=like.dtype, device=like.device)
            self.outputs[key] = self._kept(eye.expand(place.groups, -1, -1).clone())

    # -- the end -----------------------------------------------------------------------------------------

    def factors(
        self,
        num_data: int | None,
        per_example: int | None,
        reduction: str,
        fisher: Fisher,
        group: Any,
    ) -> KroneckerFactors:
        """The factors, scaled; of the data of all processes."""
        if group is not None:
            self._reduce(fisher, group)
        if not self.n:
            raise ArgumentError("data has no examples; give at least one")
        total = self.n_into + (self.n if num_data is None else float(num_data))
        n = self.n if num_data is None else float(num_data)
        terms = n * (self.terms / self.n if per_example is None else per_example)
        over = (terms if terms else float("nan")) if reduction == "mean" else 1.0
        over = 1.0 if fisher.kind == "forward-only" else over * fisher.samples
        for key, G in self.outputs.items():
            if self.output_units.get(key, 1.0) != over:
                G.mul_(self.output_units.get(key, 1.0) / over)
        blocks: dict[tuple[str, ...], AnyBlock] = {}
        if self.packed:
            for key in self.outputs:
                self.outputs[key] = unpack_triangle(self.outputs[key])
        for key, place in self.places.items():
            A = self.inputs.pop(key, None)
            if A is not None and self.units[key] != total:
                A.mul_(self.units[key] / total)
            A = unpack_triangle(A) if A is not None and self.packed else A
            blocks[key] = Block(place, A, self.outputs[self.shared.get(key, key)])
        for name, values in self.diagonals.items():
            place = Place((name,), (tuple(values.shape),))
            blocks[(name,)] = DiagonalBlock(place, values.div_(over))
        names = tuple(name for name in self.model.parameters if name not in self.left)
        if fisher.kind == "forward-only":
            reduction = "mean"  # of identities, whatever the loss is
        return KroneckerFactors(blocks, names, n, terms, reduction, self.left)

    def _reduce(self, fisher: Fisher, group: Any) -> None:
        for tensors, units in ((self.inputs, self.units), (self.outputs, self.output_units)):
            for key, tensor in tensors.items():
                tensor.mul_(units.get(key, 1.0))
                units[key] = 1.0
        outputs = () if fisher.kind == "forward-only" else self.outputs.values()  # identities
        add_up((*self.inputs.values(), *outputs, *self.diagonals.values()), group)
        like = next(iter(self.model.parameters.values()))
        self.n, self.terms = totals([self.n, self.terms], like, group)


def _differ(uses: list[Matrix]) -> bool:
    """Whether the calls of a parameter are not of one kind of layer with equal groups."""
    return len({(type(use.call.spec), use.groups) for use in uses}) > 1


def _accumulate(sums: dict[Any, Tensor], key: Any, tensor: Tensor) -> None:
    if key in sums:
        sums[key].add_(tensor)
    else:
        sums[key] = tensor


def _matrices(layers: Layers, calls: tuple[int, ...]) -> list[Matrix]:
    return [use for use in (layers.uses[p] for p in calls) if isinstance(use, Matrix)]
