"""The program that adds to a tensor that is there, `out = beta · out + result`; where it can, in its last calls.

def conv2d_kfac_expand_into(x, out, beta):
    N = x.shape[0]
    rt.correlate(x, groups=1, ..., scale=rt.ratio(1, 49*N), out=out, beta=beta)
    return out

A sum whose terms lie in parts of the result is added term by term, so that the whole is never in memory twice.
"""

from collections.abc import Sequence
from dataclasses import replace

from tnconv.backends.backend import Program
from tnconv.backends.operand_axes import tie
from tnconv.backends.torch.emit import Value, call
from tnconv.backends.torch.lowering import Lowering
from tnconv.backends.torch.padded_views import broadcast, window_view
from tnconv.backends.torch.returned import cell_of
from tnconv.errors import LoweringError
from tnconv.ir import Axis, Index, group, product
from tnconv.ir.symmetry import triangle
from tnconv.program import Call, Dims, Given, Let, Var
from tnconv.program.statements import flatten


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
        self.given |= {out: Given(out, self.plan.output_sizes), beta: Given(beta)}
        whole = self.plan.packed is not None or all(
            axis.is_group for name in self.plan.results for axis in outputs[name]
        )
        if whole:
            self.run()
            self._add(out, beta)
        else:
            self.em.do(call("scale_into", Var(out), Var(beta)), [out])
            places = [self._place(out, outputs[name]) for name in self.plan.results]
            self.run()
            self._add_terms(out, places)
        arguments = [*self.python, out, beta]
        text = self._text("_into", self.em.statements, (Var(out),), arguments)
        return self._made(text, self.choices, arguments)

    def _add(self, out: str, beta: str) -> None:
        """Add the result as a whole, in the layout that it has where the target has that as a view."""
        names, em = self.plan.results, self.em
        if self.plan.packed is not None:
            self._add_lower(out, beta, self.plan.packed)
            return
        target = Value(out, tuple(axis.indices for axis in self.values[names[0]][1]))
        if len(names) == 1 and not (
            self.returns.divided_by(names) and not self.returns.divides_all(names[0])
        ):
            value = self.values[names[0]][0]
            if set(value.legs) == set(target.legs) and em.is_view(target, value.dims):
                self._into(self._viewed(target, value.dims), value, out, beta)
                return
        self._into(target, self.returns.mean(names), out, beta)

    def _add_lower(self, out: str, beta: str, packed: int) -> None:
        """Add the lower triangle of the result, each term of a sum to its own cells where these are runs."""
        names, em = self.plan.results, self.em
        if not self.returns.runs(names, packed):
            value = self.returns.mean(names, packed)
            flat = em.arrange(value, (flatten(value.dims[:-1]), value.dims[-1]))
            self._into(self._viewed(Value(out, value.dims), flat.dims), flat, out, beta)
            return
        axes = self.values[names[0]][1]
        shared = tuple(axis.indices for axis in axes[:packed])
        cells = (Index("triangle", triangle(axes[packed].size)),)
        target = self._viewed(Value(out, (*shared, cells)), (flatten(shared), cells))
        self.returns.add_runs(names, packed, target, Var(beta))
        if sizes := self.returns.divided_by(names):
            em.do(call("undefined_if_empty", Var(out), *sizes), [out])

    def _into(self, view: Value, value: Value, out: str, *beta: str) -> None:
        """Add a value to a part of the target, or to all of it."""
        value = self.em.conj(value)
        given = call("real", value) if self.plan.real else Var(value.name)
        self.em.do(call("add_into", view, given, *map(Var, beta)), [out])

    def _viewed(self, target: Value, dims: Dims) -> Value:
        """The target in other dimensions; torch refuses what is no view after all: of a copy nobody would hear."""
        before = len(self.em.statements)
        view = self.em.arrange(target, dims)
        for place in range(before, len(self.em.statements)):
            each = self.em.statements[place]
            assert isinstance(each, Let)
            self.em.statements[place] = replace(each, value=_strict(each.value))
        return view

    def _add_terms(self, out: str, places: Sequence[Value]) -> None:
        """Add each term of a sum to its cells of the result."""
        em = self.em
        for name, place in zip(self.plan.results, places, strict=True):
            value, view = self.values[name][0], place
            if set(value.legs) == set(view.legs) and em.is_view(view, value.dims):
                view = self._viewed(view, value.dims)
            elif value.dims != view.dims:
                legs = flatten(view.dims)
                view, value = em.order(view, legs), em.order(broadcast(em, value, legs), legs)
            self._into(view, value, out)
        if sizes := self.returns.divided_by(self.plan.results):
            em.do(call("undefined_if_empty", Var(out), *sizes), [out])

    def _place(self, out: str, axes: tuple[Axis, ...]) -> Value:
        """The cells of the result that a term has."""
        em = self.em
        source: Var | Call = Var(out)
        relations = []
        dims: list[tuple[Index, ...]] = []
        for place, axis in enumerate(axes):
            run = (
                all(isinstance(i.size, int) for i in axis.indices)
                and axis.strides == group(*axis.indices).strides
            )
            if axis.is_group:
                dims.append(axis.indices)
            elif run:
                source = call("narrow", source, place, axis.start, product(i.size for i in axis.indices))
                dims.append(axis.indices)
            else:
                cell = cell_of(place, axis)
                relations.append(tie(cell, axis))
                dims.append((cell,))
        view = Value(out, tuple(dims))
        if isinstance(source, Call):
            view = em.derive(view, "part", source, view.dims, contiguous=False)
        return window_view(em, view, relations) if relations else view


def _strict(value: Call) -> Call:
    """A chain of views that is refused where it is none."""
    first, *rest = value.args
    op = "view" if value.op == "reshape" else value.op
    return Call(op, (_strict(first) if isinstance(first, Call) else first, *rest), value.options)
