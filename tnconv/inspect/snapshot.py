"""A compiled function, or a network, as plain JSON: for other tools, and for pictures of your own.

Sizes and counts are integers, or texts where they hold symbols. Positions are those of the diagram, in pixels, y
downwards; `to_svg(network, pos=...)` takes them back.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tnconv.inspect.scene import scene_of
from tnconv.inspect.scene_parts import Scene, Shape, Text
from tnconv.inspect.views import Compiled, equation_of, sentences
from tnconv.ir import Axis, Delta, Expression, Network, Node, Pattern, Scale, Select, Size, Sum, Tensor
from tnconv.ir.network_printer import format_kind
from tnconv.passes import Stage
from tnconv.planner import Step, format_step
from tnconv.spec import Layer

FORMAT = 1


def snapshot(of: Compiled | Expression) -> dict[str, Any]:
    """What is known about a compiled function or a network, as values that `json.dumps` takes.

    Args:
        of: a compiled function, a network or a sum.

    Returns:
        For a network its `name`, `text` and `terms`, each with its `nodes`, `indices`, `output` and positions. For a
        function that under `network`, and `op`, `spec`, `equation`, `stages`, `plan`, `kernels`, `decomposed`, `trials`
        and `source`; `spec` has the fields that a spec file has, and is None where the function is of no layer. Several
        operations have `functions` in place of `network`, what is known of each alone.
    """
    if isinstance(of, Network | Sum):
        return {"format": FORMAT, **_expression(of)}
    alone = of.functions[0] is of
    return {
        "format": FORMAT,
        "op": of.op,
        "spec": None if of.spec is None else _spec(of.spec),
        "equation": equation_of(of),
        **(
            {"network": _expression(of.network)}
            if alone
            else {"functions": list(map(snapshot, of.functions))}
        ),
        "stages": [_stage(s) for s in of.stages],
        "plan": _plan(of),
        "kernels": _kernels(of),
        "decomposed": _decomposed(of),
        "trials": [
            {"plan": t.plan, "prefer": list(t.prefer), "predicted": t.predicted, "measured": t.measured}
            for t in of.trials
        ],
        "source": of.program.source,
    }


# -- networks ----------------------------------------------------------------------------------------


def _expression(network: Expression) -> dict[str, Any]:
    return {"name": network.name, "text": str(network), "terms": [_term(term) for term in network.terms]}


def _term(term: Network) -> dict[str, Any]:
    at = _positions(scene_of(term))
    return {
        "name": term.name,
        "nodes": [_node(n) | _at(at, n.name) for n in term.nodes],
        "indices": [
            {"name": i.name, "size": _size(i.size), "open": i in term.open_indices} | _at(at, i.name)
            for i in term.indices
        ],
        "output": [_axis(axis) for axis in term.output],
    } | ({"real": True} if term.real else {})


def _node(node: Node) -> dict[str, Any]:
    match node:
        case Tensor():
            axes = [_axis(axis) for axis in node.axes]
            read = {"argument": node.argument} | ({"conj": True} if node.conj else {})
            return {"name": node.name, "kind": node.role, **read, "axes": axes}
        case Pattern() | Delta() | Select():
            kind = format_kind(node)
            legs = [i.name for i in node.indices]
            return {"name": node.name, "kind": kind, "relation": node.relation_text(), "indices": legs}
        case Scale():
            return {"name": node.name, "kind": "scale", "value": str(node.value)}


def _axis(axis: Axis) -> list[str]:
    return [index.name for index in axis.indices]


def _positions(scene: Scene) -> dict[str, tuple[float, float]]:
    found = {
        p.text: (p.at[0], p.at[1] - 4.5) for p in scene.parts if isinstance(p, Text) and p.kind == "index"
    }
    return found | {p.name: p.at for p in scene.parts if isinstance(p, Shape)}


def _at(positions: Mapping[str, tuple[float, float]], name: str) -> dict[str, Any]:
    found = positions.get(name)
    return {} if found is None else {"at": [round(found[0], 1), round(found[1], 1)]}


# -- layer, stages, plan, kernels --------------------------------------------------------------------


def _spec(spec: Layer) -> dict[str, Any]:
    layer: Any = spec
    return {"kind": spec.kind} | asdict(layer)


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "pass": stage.text,
        "changed": stage.changed,
        "notes": list(stage.notes),
        "sentences": list(sentences(stage)),
        "before": str(stage.before),
        "after": str(stage.after),
    }


def _plan(function: Compiled) -> dict[str, Any]:
    plan = function.plan
    return {
        "text": str(plan),
        "arguments": {name: [_size(s) for s in sizes] for name, sizes in plan.arguments.items()},
        "hints": dict(plan.hints),
        "steps": [_step(step) for step in plan.steps],
        "results": list(plan.results),
        "multiplications": _size(function.cost.multiplications),
        "peak_elements": _peak(function),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "result": step.result,
        "operands": [o.source for o in step.operands],
        "text": format_step(step),
        "multiplications": _size(step.multiplications),
        "elements": _size(step.elements),
    }


def _kernels(function: Compiled) -> list[dict[str, Any]]:
    return [
        {
            "step": choice.step,
            "kernel": choice.kernel,
            "predicted": choice.predicted,
            "candidates": dict(choice.candidates),
            "buffers": {w: _size(n) for step, w, n in function.program.workspace if step == choice.step},
        }
        for choice in function.program.choices
    ]


def _decomposed(function: Compiled) -> list[dict[str, Any]]:
    """Steps that others stand for, or that kernels take apart at once."""
    return [
        {
            "step": format_step(whole),
            "rule": how,
            "steps": [format_step(step) for step in steps],
        }
        for whole, how, steps in function.program.taken_apart(function.plan)
    ]


def _peak(function: Compiled) -> int | str | None:
    return None if function.cost.peak is None else _size(function.cost.peak)


def _size(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
