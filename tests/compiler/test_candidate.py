"""What candidates find out about their steps is shared, and changes neither prices nor programs."""

from dataclasses import replace

import pytest

from tests.work import calls_of
from tnconv import ConvSpec, nn, ops
from tnconv.compiler.candidate import Candidate, Task
from tnconv.planner.objective import Objective

FACTORS = nn.CPConv2d(8, 6, 3, rank=4, padding=1).network((9, 9))
LAYER = ops.derive(
    ops.get("gradient_norm"), ConvSpec(4, 6, 3, (8, 8), padding=1).network(), ops.Options()
).run()[0]
TASKS = [
    Task(FACTORS),
    Task(FACTORS, objective=Objective.of("time", training=True)),
    Task(LAYER),
]


def alone(candidate: Candidate) -> Candidate:
    """The same candidate where nothing is known of any step."""
    return Candidate(replace(candidate.task), candidate.plan)


@pytest.mark.parametrize("task", TASKS, ids=["value", "training", "squares"])
def test_steps_in_common_are_priced_once(task: Task) -> None:
    every = task.candidates()
    assert len(every) > 2
    for each in every:  # what the process keeps of expressions is in neither count
        alone(each).predicted()
    fresh = [alone(each) for each in every]
    assert calls_of(lambda: [e.predicted() for e in every]) < calls_of(lambda: [e.predicted() for e in fresh])
    for one, two in zip(every, fresh, strict=True):
        assert one.timed.choices == two.timed.choices
        assert one.timed.source == two.timed.source
    assert task.known
    assert every[0].executable.forward.source == every[0].program.source
    assert not task.known  # what is kept of a compilation is small
