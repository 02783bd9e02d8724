"""PyTorch's own tables of operators and modules, run against tnconv: `make suites`.

The tables ship with PyTorch (`torch.testing._internal`) and need the package `expecttest`. For every function and module
that tnconv replaces, and every sample in the table:

- values against PyTorch in float64, float32, complex128, bfloat16 and float16, contiguous and strided;
- gradients of all arguments against PyTorch's in float64, float32 and complex128; one gradcheck a function;
- the meta device: shape and dtype;
- error inputs: where PyTorch raises, an error of tnconv is raised, no other package's;
- modules: forward, backward, `state_dict`, repr, pickle, `torch.save`, deepcopy, `.to`, `from_torch`.

A tolerance follows from the arithmetic: so many roundings of the sum of the absolute values of the terms, which PyTorch
itself computes from absolute values in float64. A case that tnconv refuses is counted with its reason if the reason is in
`REFUSALS`; any other error is a failure, and the status is 1.

    python tests/suites                         # everything, one minute
    python tests/suites nn.functional.conv2d    # some names
"""

import sys
import warnings

import torch_modules
import torch_operators
from outcomes import FAILED, summary


def main(names: list[str]) -> int:
    """Run the suites of some names, or all, and print what became of them."""
    warnings.filterwarnings("ignore")
    known = [*torch_operators.FUNCTIONS, *torch_modules.MODULES]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"{unknown[0]!r} is not known; the names are {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = []
    for suite, table in (
        (torch_operators, torch_operators.FUNCTIONS),
        (torch_modules, torch_modules.MODULES),
    ):
        for name in table:
            if not names or name in names:
                outcomes += suite.run([name])
                print(f"{name}: {len(outcomes)} checks so far", file=sys.stderr)
    print(summary(outcomes))
    return int(any(each.state == FAILED for each in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
