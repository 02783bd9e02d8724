"""curvlinops' KFAC and EKFAC operators with tnconv's Kronecker factors: drop-ins with the same names.

`KFACLinearOperator` of curvlinops (https://curvlinops.readthedocs.io) has no table of backends; what it computes of a
layer it computes in two methods, and `EKFACLinearOperator` in a third. The subclasses here override these, so that all
else is curvlinops': Fisher types, scales, draws of labels, products, inverses (`KFACInverseLinearOperator` takes them),
`state_dict`.

What changes: convolutions of one to three dimensions are supported, where it has two; padding modes count, which it
ignores; a factor is computed by the kernels that `tnconv.compile` chooses, without an unfolded input where that is
faster. A grouped convolution has one block, of the mean over the groups, as there; its eigenvalues in EKFAC are those
of its gradients, where curvlinops takes gradients of the averaged input.
"""

from typing import Any

from torch import Tensor, nn

from tnconv.compiler.function import CompiledFunction
from tnconv.integrations.layer_operations import CONVOLUTIONS, LINEAR, compiled, flat, of_output, positions

try:
    import curvlinops
except ImportError as error:
    raise ImportError(
        f"tnconv.integrations.curvlinops cannot import curvlinops ({error}); pip install 'tnconv[curvlinops]'"
    ) from error


class KFACLinearOperator(curvlinops.KFACLinearOperator):  # type: ignore[misc]
    """The Kronecker-factored approximation of the Fisher or GGN of a model, as a linear operator.

    All arguments and methods are those of `curvlinops.KFACLinearOperator`. Supported are parameters of `nn.Linear`,
    `nn.Conv1d` to `nn.Conv3d` and of the convolutions of `tnconv.nn`, with all hyper-parameters.
    """

    _SUPPORTED_MODULES = (*LINEAR, *CONVOLUTIONS)

    def _hook_accumulate_input_covariance(
        self, module: nn.Module, inputs: tuple[Tensor, ...], module_name: str
    ) -> None:
        """Add `S_A/(N T)`, or `R_A/(N T²)` for reduce, of a batch; `N` is the number of all examples."""
        if len(inputs) != 1:
            raise ValueError(
                f"module {module_name!r} is called with {len(inputs)} inputs; a layer with one is supported"
            )
        x, share = flat(module, inputs[0].detach()), len(inputs[0]) / self._N_data
        op, size, sums = f"kfac_{self._approximation}", positions(module, x), self._input_covariances
        named = self._mapping[module_name]
        if len(named) == 1 or self._separate_weight_and_bias:
            _add(sums, module_name, compiled(module, op, size, groups="average"), x * share**0.5)
        else:  # the column of ones takes no part in a scale of the input
            function = compiled(module, op, size, groups="average", bias="joint")
            self._set_or_add_(sums, module_name, function(x)[0].mul_(share))

    def _accumulate_gradient_covariance(
        self, grad_output: Tensor, module: nn.Module, module_name: str
    ) -> None:
        """Add `S_G`, or `R_G` for reduce, of a batch, times what curvlinops corrects the scale of the loss by."""
        g = flat(module, grad_output.detach())
        op = f"kfac_grad_{self._approximation}"
        function = of_output(module, op, positions(module, g), groups="average", convention="sum")
        _add(self._gradient_covariances, module_name, function, g * self._scale(len(g)) ** 0.5)

    def _scale(self, n: int) -> float:
        """What curvlinops corrects the scale of a loss of n examples by."""
        if self._loss_func.reduction == "sum":
            return 1 / self._mc_samples  # type: ignore[no-any-return]
        # Gradients are divided by the loss terms of a batch.
        return n**2 * self._num_per_example_loss_terms / (self._N_data * self._mc_samples)  # type: ignore[no-any-return]

    @property
    def _approximation(self) -> str:
        """`"expand"` or `"reduce"`; curvlinops' enumeration is a str by value."""
        return curvlinops.KFACType(self._kfac_approx).value  # type: ignore[no-any-return]


class EKFACLinearOperator(KFACLinearOperator, curvlinops.EKFACLinearOperator):  # type: ignore[misc]
    """KFAC with the eigenvalues that fit best, as a linear operator.

    All arguments and methods are those of `curvlinops.EKFACLinearOperator`; layers as of `KFACLinearOperator`.
    """

    _corrected_eigenvalues: dict[str, Any]

    def _accumulate_corrected_eigenvalues(
        self, grad_output: Tensor, module: nn.Module, module_name: str
    ) -> None:
        """Add `Σ_n (Q_Gᵀ V[n] Q_A)²` of the per-example gradients `V` of a batch, times the scale of the loss."""
        g = flat(module, grad_output.detach())
        g = g * self._scale(len(g)) ** 0.5
        named, found = self._mapping[module_name], self._corrected_eigenvalues
        by_output = self._gradient_covariances_eigenvectors[module_name]
        values = {}
        joint = len(named) == 2 and not self._separate_weight_and_bias
        if "weight" in named:
            x = flat(module, self._cached_activations[module_name])
            bias = "joint" if joint else "separate"
            options = {"convention": "sum", "groups": "average", "bias": bias}
            function = compiled(module, "ekfac_eigenvalues", positions(module, x), **options)
            by_input = self._input_covariances_eigenvectors[module_name]
            values["weight"] = function(x, g.unsqueeze(0), by_output.unsqueeze(0), by_input.unsqueeze(0))[0]
        if joint:
            self._corrected_eigenvalues = self._set_or_add_(found, module_name, values["weight"])
            return
        if "bias" in named:
            rows = of_output(module, "per_example_weight_vjp", positions(module, g), wrt="bias")(g)
            values["bias"] = (rows @ by_output).square().sum(0)
        found[module_name] = found.get(module_name, {})
        for name, place in named.items():
            found[module_name] = self._set_or_add_(found[module_name], place, values[name])


def _add(sums: dict[str, Tensor], name: str, function: CompiledFunction, tensor: Tensor) -> None:
    if name in sums:
        function(tensor, out=sums[name].unsqueeze(0), beta=1.0)
    else:
        sums[name] = function(tensor)[0]
