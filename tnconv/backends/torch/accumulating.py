"""The program that adds to a tensor that is there, `out = beta · out + result`; where it can, in its last calls.

def conv2d_kfac_expand_into(x, out, beta):
    N = x.shape[0]
    rt.correlate(x, groups=1, ..., scale=rt.ratio(1, 49*N), out=out, beta=beta)
    return out

A sum whose terms lie in parts of the result is added term by term, so that the whole is never in memory twice.
"""

from collections.abc import Sequence

from tnconv.backends.base import Program
from tnconv.backends.torch.emit import Value, flatten
from tnconv.backends.torch.lower import Lowering
from tnconv.backends.torch.windows import broadcast, window_view
from tnconv.errors import LoweringError
from tnconv.ir import Axis, Index, Pattern, group
from tnconv.program import Var
from tnconv.program.passes.free import free


class Accumulating(Lowering):
    """Writes the program of a plan with two more arguments; the other arguments are as for `Lowering`.

    The first is the tensor that is added to, contiguous and with no memory of the other arguments, which the program
    returns; the second a number.
    """

    def accumulating(self) -> Program:
        """The program.

        Raises:
            LoweringError: the plan has several results or runs in chunks.
        """
        if self.plan.also or self.plan.slices:
            raise LoweringError(
                f"{self.plan.name!r} has several results or runs in chunks; add what it returns"
            )
        out, beta = self.em.fresh("out"), self.em.fresh("beta")
        outputs = {step.result: step.output for step in self.plan.steps}
        whole = all(axis.is_group for name in self.plan.results for axis in outputs[name])
        if whole:
            self.run()
            self._add(out, beta)
        else:
            self.em.do(f"rt.scale_into({out}, {beta})", [out])
            places = [self._place(out, outputs[name]) for name in self.plan.results]
            self.run()
            self._add_terms(out, places)
        arguments = dict(self.python) | {out: out, beta: beta}
        text = self._text("_into", self.em.statements, (Var(out),), arguments)
        return self._made(free(text), self.choices, arguments)

    def _add(self, out: str, beta: str) -> None:
        """Add the result as a whole."""
        names, em = self.plan.results, self.em
        if len(names) == 1 and self._added_last(names[0], out, beta):
            return
        total = em.conj(self._mean(names))
        em.do(f"rt.add_into({out}, {self._real(total)}, {beta})", [out, total.name])

    def _real(self, value: Value) -> str:
        return f"rt.real({value.name})" if self.plan.real else value.name

    def _added_last(self, name: str, out: str, beta: str) -> bool:
        """Let the call that made the only result add it, if it can."""
        value, axes = self.values[name]
        target = Value(out, tuple(axis.indices for axis in axes))
        if self.plan.real or not self._private(name) or set(value.legs) != set(target.legs):
            return False
        if self._divided_by() and not self._divides_all(name):
            return False
        return self.em.add_into(value, target, beta)

    def _add_terms(self, out: str, places: Sequence[Value]) -> None:
        """Add each term of a sum to its cells of the result."""
        em = self.em
        for name, place in zip(self.plan.results, places, strict=True):
            value, view = self.values[name][0], place
            if (
                not self.plan.real
                and set(value.legs) == set(view.legs)
                and self._private(name)
                and em.add_into(value, view, "1")
            ):
                continue
            if value.dims != view.dims:
                legs = flatten(view.dims)
                view, value = em.order(view, legs), em.order(broadcast(em, value, legs), legs)
            value = em.conj(value)
            em.do(f"rt.add_into({view.name}, {self._real(value)})", [view.name, value.name, out])
        if sizes := self._divided_by():
            em.do(f"{out} if {' and '.join(sizes)} else {out}.mul_(float('nan'))", [out])

    def _place(self, out: str, axes: tuple[Axis, ...]) -> Value:
        """The cells of the result that a term has."""
        em = self.em
        text, relations = out, []
        dims: list[tuple[Index, ...]] = []
        for place, axis in enumerate(axes):
            run = (
                all(isinstance(i.size, int) for i in axis.indices)
                and axis.strides == group(*axis.indices).strides
            )
            if axis.is_group:
                dims.append(axis.indices)
            elif run:
                text += f".narrow({place}, {axis.start}, {em.span(axis.indices)})"
                dims.append(axis.indices)
            else:
                cell = self._cell(place, axis)
                terms = tuple(zip(axis.strides, axis.indices, strict=True))
                relations.append(Pattern("axis", cell, terms, axis.start))
                dims.append((cell,))
        view = Value(out, tuple(dims))
        if text != out:
            view = em.derive(view, "part", text, view.dims, contiguous=False)
        return window_view(em, view, relations) if relations else view
