"""tnconv inside other packages, one a module, each an optional extra: `pip install 'tnconv[opacus]'`.

Nothing is imported here, so that no package has to be there but the one whose module is imported.

- `tnconv.integrations.opacus`: per-example gradients and norms for differentially private training.
- `tnconv.integrations.curvlinops`: its KFAC operator with factors by tnconv, for more layers.
- `tnconv.integrations.laplace`: a backend for Laplace approximations.
"""
