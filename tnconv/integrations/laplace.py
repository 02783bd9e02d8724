"""Laplace approximations (laplace-torch) with curvature by tnconv: `Laplace(model, …, backend=TnconvGGN)`.

A backend of laplace-torch (https://aleximmer.github.io/Laplace) computes the curvature of one batch: Kronecker factors,
a diagonal, the full matrix, Jacobians, gradients. `TnconvGGN` takes them from `tnconv.curvature`, so that every
hyper-parameter of a layer counts, nothing is left on the model, and the diagonal needs no Jacobian of the whole model.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from tnconv.curvature import DiagonalBlock, fisher_diagonal, ggn_diagonal, kfac, per_example_gradients
from tnconv.curvature.calls_by_parameter import Layers
from tnconv.curvature.models import Model
from tnconv.curvature.run import run
from tnconv.errors import ArgumentError

try:
    from laplace.curvature import GGNInterface
    from laplace.utils import Kron
except ImportError as error:
    raise ImportError(
        f"tnconv.integrations.laplace cannot import laplace ({error}); pip install 'tnconv[laplace]'"
    ) from error

Batch = Tensor | MutableMapping[str, Any]


class TnconvGGN(GGNInterface):  # type: ignore[misc]
    """The generalised Gauss-Newton matrix of a model, or its Fisher by sampled labels, for laplace-torch.

    Give the class as `backend=`; the arguments are those of laplace-torch's `GGNInterface`. The model returns `[n, C]`.
    Of parameters without a Kronecker product (scales and shifts of norms) `kron` has the diagonal.

    Args:
        model: with the parameters of interest; those that require no gradient are left out.
        likelihood: `"classification"` or `"regression"`.
        last_layer: whether the parameters are those of `model.last_layer` alone.
        subnetwork_indices: of the parameters of interest, in `parameters_to_vector`'s order; all if left out.
        dict_key_x: the key of the input, where inputs are dicts.
        dict_key_y: the key of the target there.
        stochastic: whether labels are drawn from the model, instead of all outputs of an example.
        num_samples: labels drawn for each example.
    """

    def kron(self, x: Batch, y: Tensor, N: int, **kwargs: Any) -> tuple[Tensor, Any]:
        """Kronecker factors of a batch: `[G, A]` for each weight, `[G]` for each bias, in the order of parameters.

        `A = Σ a aᵀ/(N T)`, so that the sums over batches are those of all data, as in laplace-torch's other backends.
        A grouped convolution has one block, of the mean over its groups.

        Args:
            x: `[n, *]`.
            y: `[n]` labels, or `[n, C]` for regression.
            N: examples of all data.
            kwargs: of `tnconv.curvature.kfac`, such as `kfac_approx="reduce"`.

        Returns:
            The loss, and the factors.

        Raises:
            ArgumentError: a parameter has no form that laplace-torch knows.
        """
        options: dict[str, Any] = {
            "groups": "average",
            "unsupported": "diagonal",
            "check_deterministic": False,
        }
        if self.stochastic:
            options |= {"fisher_type": "mc"} | self._samples()
        options |= {"params": self.params, "num_data": N} | kwargs
        factors = kfac(self.model, self.lossfunc, [(x, y)], **options)
        found = [_factors(name, factors.blocks[(name,)]) for name, _ in _named(self.model, self.params)]
        return self._loss(self._output(x), y), self.factor * Kron(found)

    def diag(self, x: Batch, y: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The diagonal of the matrix of a batch, `[P]`, without Jacobians of the whole model.

        Args:
            x: `[n, *]`.
            y: `[n]` labels, or `[n, C]` for regression.
            kwargs: ignored, as in laplace-torch.

        Returns:
            The loss, and the diagonal.
        """
        data = [(x, y)]
        if self.stochastic:
            found = fisher_diagonal(self.model, self.lossfunc, data, params=self.params, **self._samples())
        else:
            found = ggn_diagonal(self.model, self.lossfunc, data, params=self.params)
        diagonal = self._chosen(torch.cat([part.flatten() for part in found.values()]))
        return self._loss(self._output(x), y), self.factor * diagonal

    def jacobians(self, x: Batch, enable_backprop: bool = False) -> tuple[Tensor, Tensor]:
        """Jacobians `[n, C, P]` of the outputs by the parameters, and the outputs `[n, C]`.

        Args:
            x: `[n, *]`.
            enable_backprop: whether gradients flow through the result, which is then computed by `torch.func`.
        """
        if enable_backprop:
            return super().jacobians(x, enable_backprop)  # type: ignore[no-any-return]
        return self._rows(x, _units)

    def selected_output_jacobians(
        self, x: Batch, outputs: Tensor, enable_backprop: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Jacobians `[n, s, P]` of some outputs of each example, without those of the others, and the outputs `[n, C]`.

        Args:
            x: `[n, *]`.
            outputs: which, `[n]` or `[n, s]`.
            enable_backprop: as for `jacobians`.

        Raises:
            ArgumentError: there are not as many rows of outputs as examples.
        """
        if enable_backprop:
            return super().selected_output_jacobians(x, outputs, enable_backprop)  # type: ignore[no-any-return]
        chosen = outputs.unsqueeze(1) if outputs.ndim == 1 else outputs

        def units(output: Tensor) -> Iterator[Tensor]:
            if len(chosen) != len(output):
                raise ArgumentError(
                    f"outputs has {len(chosen)} rows but x has {len(output)} examples; give one row for each"
                )
            for column in chosen.to(output.device, torch.long).T:
                yield torch.zeros_like(output).scatter_(1, column.unsqueeze(1), 1)

        return self._rows(x, units)

    def gradients(self, x: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each example's loss, `[n, P]`, and the sum of the losses.

        Args:
            x: `[n, *]`.
            y: `[n]` labels, or `[n, C]` for regression.
        """
        found = per_example_gradients(self.model, self.lossfunc, x, y, params=self.params)
        rows = torch.cat([part.flatten(1) for part in found.values()], 1)
        return self._chosen(rows), self.lossfunc(self._output(x), y)

    # -- how it is computed ------------------------------------------------------------------------------

    def _rows(self, x: Batch, cotangents: Callable[[Tensor], Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
        """Per-example gradients `[n, v, P]` of products of the output with some cotangents, and the output.

        Args:
            x: `[n, *]`.
            cotangents: gives those of an output, each of its shape.
        """
        passed = run(Model.of(self.model, self.params), x)
        output = _checked(passed.values)
        layers = Layers.of(passed)
        found = []
        for cotangent in cotangents(output):
            z = layers.gradients(passed.gradients(cotangent, retain=True))
            parts = [
                layers.rows(name, [z], parameter.shape)[0].flatten(1)
                for name, parameter in _named(self.model, self.params)
            ]
            found.append(self._chosen(torch.cat(parts, 1)))
        return torch.stack(found, 1), output

    def _samples(self) -> dict[str, Any]:
        """How labels are drawn: anew in every call."""
        return {"mc_samples": self.num_samples, "seed": int(torch.randint(2**31, ()))}

    def _chosen(self, values: Tensor) -> Tensor:
        return values if self.subnetwork_indices is None else values[..., self.subnetwork_indices]

    def _output(self, x: Batch) -> Tensor:
        with torch.no_grad():
            return _checked(self.model(x))

    def _loss(self, output: Tensor, y: Tensor) -> Tensor:
        """The negative log likelihood of a batch, up to a constant."""
        found: Tensor = self.factor * self.lossfunc(output, y)
        return found.detach()


def _named(model: nn.Module, parameters: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(parameter)], parameter) for parameter in parameters]


def _units(output: Tensor) -> Iterator[Tensor]:
    for place in range(output.shape[1]):
        unit = torch.zeros_like(output)
        unit[:, place] = 1
        yield unit


def _checked(output: Tensor) -> Tensor:
    if output.ndim != 2:
        raise ArgumentError(
            f"the model returns a tensor of shape {tuple(output.shape)}; let it return [n, C], one row for each example"
        )
    return output


def _factors(name: str, block: Any) -> list[Tensor]:
    """A block as laplace-torch has it: two matrices, or one."""
    if not isinstance(block, DiagonalBlock):
        return [block.G[0]] if block.A is None else [block.G[0], block.A[0]]
    if block.values.ndim > 1:
        raise ArgumentError(
            f"parameter {name!r} of shape {tuple(block.values.shape)} has no Kronecker product, and laplace-torch "
            "takes a diagonal of vectors only; let it require no gradient, or take another hessian_structure"
        )
    return [block.values.diag()]
