"""The exact check of a plan that serves many sizes: on both sides of whatever decides which plan a size has.

A program that was checked for one size says nothing about others. So where `verify=` asks for it, what a plan gives for
small sizes is compared with the reference: from the least that there is, where kernels are as large as images and
indices have one value, through all rests that strides leave behind. Sizes that the plan does not serve have functions
of their own, which are compared as well. What is called later is checked once more, for its own size.
"""

from collections.abc import Iterator
from dataclasses import replace

from tnconv.compiler.any_size.open_source import OpenSource, Sizes
from tnconv.compiler.any_size.template import Template
from tnconv.compiler.check_program import check_program, check_value
from tnconv.compiler.driver import Job
from tnconv.compiler.function import CompiledFunction
from tnconv.compiler.source import Source
from tnconv.errors import TnconvError

_LEAST = 64  # up to which the least size is looked for
_MOST_STEPS = 6  # sizes behind the least


def check_template(template: Template, source: OpenSource, job: Job) -> None:
    """Compare the functions of small sizes with the reference, those by a template and those that it does not serve.

    Args:
        template: what is checked.
        source: what has open sizes.
        job: what is asked of it.

    Raises:
        LoweringError: a value differs.
    """
    plain = replace(job, options=replace(job.options, verify=None))
    for small in _small_sources(source):
        forward = plain.forward(small)
        function = template.function(forward, small.spec) or plain.compiled(small)
        check_value(plain.derived(forward, small).before, function.built.candidate)


def is_right(function: CompiledFunction, job: Job, source: Source) -> bool:
    """Check the function of a size that another one's plan gave; False where it is too large to be told.

    Raises:
        TnconvError: a pass or the program has another value than it should.
    """
    candidate, derived = function.built.candidate, job.derived(job.forward(source), source)
    if derived.network != candidate.task.network and not check_value(derived.before, candidate):
        return False
    check_program(derived.before, candidate)
    return True


def _small_sources(source: OpenSource) -> Iterator[Source]:
    """Of the least sizes, with all rests of the strides: of all axes together, and of each alone."""
    count = len(source.names)
    least = next((size for size in range(1, _LEAST) if _at(source, (size,) * count)), _LEAST)
    steps = range(min(2 * max(source.periods, default=0), _MOST_STEPS) + 1)
    together = [(least + step,) * count for step in steps]
    alone = [
        (*(least,) * place, least + step, *(least,) * (count - place - 1))
        for place in range(count)
        for step in steps
    ]
    found = (_at(source, sizes) for sizes in dict.fromkeys((*together, *alone)))
    return (each for each in found if each is not None)


def _at(source: OpenSource, sizes: Sizes) -> Source | None:
    """The source with some sizes; None where it does not have them."""
    try:
        return source.at(sizes)
    except TnconvError:
        return None
