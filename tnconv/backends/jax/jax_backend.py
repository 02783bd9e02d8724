"""The backend that writes JAX: generated source under `jax.jit`, on whatever devices JAX has."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from tnconv.backends.arrays import Arrays, name_of
from tnconv.backends.backend import Backend, Capability, Draft, How, Program
from tnconv.errors import ArgumentError, PluginError
from tnconv.ir import Expression
from tnconv.planner.objective import Objective
from tnconv.planner.plan import Plan
from tnconv.planner.steps_price import steps_price

try:
    import jax
    import jax.experimental
    import jax.numpy as jnp

    from tnconv.backends.jax.jax_lowering import lower
except ImportError as error:
    raise PluginError(f"backend 'jax' cannot import JAX ({error}); pip install 'tnconv[jax]'") from error


class JaxArrays(Arrays):
    """Arrays of JAX, traced ones too."""

    noun = "jax.Array"

    def is_array(self, value: object) -> bool:
        """Whether something is an array of JAX."""
        return isinstance(value, jax.Array)

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        """An array on JAX' default device."""
        return jnp.asarray(array)

    def cast(self, array: Any, dtype: torch.dtype) -> Any:
        """The array in another dtype.

        Raises:
            ArgumentError: it has 64 bits, and JAX was not told to have any such.
        """
        name = name_of(dtype)
        if jax.dtypes.canonicalize_dtype(name).name != name:
            raise ArgumentError(
                f"{name} is asked for but JAX computes in {jax.dtypes.canonicalize_dtype(name).name}; call "
                "jax.config.update('jax_enable_x64', True) first, or ask for another dtype"
            )
        return array.astype(name)

    def exactly(self) -> AbstractContextManager[Any]:
        """64 bits for a while."""
        where = jax if hasattr(jax, "enable_x64") else jax.experimental  # of older releases
        enable = where.enable_x64
        context: AbstractContextManager[Any] = enable(True)
        return context


class JaxBackend(Backend):
    """Write the program of a plan for JAX: native convolutions, einsums and gathers under `jax.jit`."""

    arrays = JaxArrays()
    capabilities = frozenset({Capability.SEVERAL})

    def lower(self, plan: Plan, network: Expression, how: How) -> Program:
        """The program of a plan."""
        return lower(plan, how.hints)

    def draft(self, plan: Plan, network: Expression, how: How) -> Draft:
        """`multiplications + 32·elements`, the planner's measure, decides: XLA tells no times."""
        price = steps_price(plan.steps, Objective.of("time"), how.hints)
        return Draft(price, lambda: self.lower(plan, network, how))
