"""Small random networks with strided, dilated, folded and shared relations, and trees over them."""

import random
from itertools import combinations

from tnconv import plugins
from tnconv.ir import Index, Network, Tensor, group, pattern
from tnconv.ir.nodes import MODES
from tnconv.planner import make_plan


def random_network(seed, leaves=None, symbol=None, distinct=True):
    """Up to 7 tensors; relations of up to 4 indices that are on tensors, in the output, in both or in neither."""
    rng = random.Random(seed)
    modes = random.Random(seed + 1)  # of its own, so that the rest of the network does not depend on it
    leaves = leaves or rng.randint(1, 4)
    sizes = (1, 2, 2, 3, 3, 4, 5)
    plain = [Index(name, rng.choice(sizes)) for name in ("n", "c", "d", "e")[: rng.randint(1, 4)]]
    if symbol is not None:
        plain[0] = Index("n", symbol)
    legs = [[] for _ in range(leaves)]
    output = []
    for index in plain:
        for part in rng.sample(range(leaves), min(leaves, rng.choice((1, 2, 2, 3)))):
            legs[part].append(index)
        if rng.random() < 0.4:
            output.append(index)
    patterns, pool = [], []
    for number in range(1, rng.choice((1, 2, 2, 3, 3)) + 1):
        left = Index(f"i{number}", rng.choice((1, 2, 4, 5, 6)))
        terms = []
        for place in range(rng.randint(1, 3)):
            if pool and rng.random() < 0.25:
                index = rng.choice(pool)
            else:
                index = Index(f"k{number}{place}", rng.choice((1, 2, 2, 3, 4)))
                pool.append(index)
            terms.append((rng.choice((1, 1, 1, 2, 2, 3, -1)), index))
        folds = (left.size, modes.choice(list(MODES))) if rng.random() < 0.2 else ()
        patterns.append(pattern(f"p{number}", left, tuple(terms), rng.choice((0, 0, -1, -2, 1)), *folds))
        pool.append(left)
    for index in dict.fromkeys(pool):
        where = rng.choice(("leaf", "leaf", "leaf", "leaf", "output", "latent", "both", "two"))
        if where in ("leaf", "both", "two"):
            for part in rng.sample(range(leaves), min(leaves, 2 if where == "two" else 1)):
                legs[part].append(index)
        if where in ("output", "both"):
            output.append(index)
    if rng.random() < 0.3:
        output.append(Index("u", 2))
    nodes = list(patterns)
    for part, found in enumerate(legs):
        rng.shuffle(found)
        indices = list(dict.fromkeys(found))
        axes = [group(i) for i in indices]
        if len(axes) > 1 and rng.random() < 0.4:
            axes = [group(*indices[:2]), *axes[2:]]
        nodes.append(Tensor("xyzvwut"[part], "input", tuple(axes)))
    if not distinct and leaves > 1:
        second = nodes[-1]
        nodes[-1] = Tensor(second.name, "input", nodes[-2].axes, of=nodes[-2].name)
    rng.shuffle(output)
    return Network(f"random{seed}", tuple(nodes), tuple(group(i) for i in output))


def all_trees(positions):
    """Every binary tree over the positions, written without a thought of efficiency."""
    if len(positions) == 1:
        return [positions[0]]
    first, rest = positions[0], positions[1:]
    found = []
    for count in range(len(rest)):
        for chosen in combinations(rest, count):
            left = (first, *chosen)
            right = tuple(p for p in rest if p not in chosen)
            found += [(a, b) for a in all_trees(left) for b in all_trees(right)]
    return found


def random_tree(rng, count):
    parts = list(range(count))
    while len(parts) > 1:
        a, b = rng.sample(range(len(parts)), 2)
        made = (parts[a], parts[b])
        parts = [p for n, p in enumerate(parts) if n not in (a, b)] + [made]
    return parts[0]


def plan_with_tree(network, tree, **options):
    """The plan for a given tree, through a planner plug-in."""
    plugins.register(plugins.PLANNERS, "given", lambda problem: tree)
    try:
        return make_plan(network, planner="given", **options)
    finally:
        plugins.unregister(plugins.PLANNERS, "given")
