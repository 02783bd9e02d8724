"""A few random cases of every run of the tests; and that a run fails, resumes and prints as it should."""

import re
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from typer.testing import CliRunner

from tests.fuzz import __main__ as command
from tests.fuzz.cases import Case, cases
from tests.fuzz.judge import judge
from tests.fuzz.run import ROUND, Progress, rounds


@settings(max_examples=24, derandomize=True)
@given(case=cases())
def test_random_cases(case: Case) -> None:
    judge(case)


def refuses_dilation(case: Case) -> str:
    """A judge of everything that finds one kind of fault."""
    assert max(getattr(case.spec, "dilations", (1,))) == 1, "dilation"
    return "value"


def test_a_failure_is_shrunk_and_printed_as_a_test_that_fails() -> None:
    progress = Progress(seed=3)
    next(rounds(progress, refuses_dilation, 1))
    assert progress.counts["failed"] == len(progress.failures) == 1
    text = progress.failures[0]
    assert "# AssertionError: dilation" in text
    found = re.findall(r"(?<!_)dilation=\(([^)]*)\)", text)
    assert max(int(number) for number in re.findall(r"\d+", found[0])) > 1
    scope: dict[str, object] = {}
    exec(
        text.replace("import judge", "import judge as _").replace("    judge(", "    refuses_dilation("),
        {"refuses_dilation": refuses_dilation},
        scope,
    )
    (test,) = scope.values()
    with pytest.raises(AssertionError, match="dilation"):
        test()  # type: ignore[operator]


def test_a_run_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    def seen(run: Progress, count: int) -> list[Case]:
        found: list[Case] = []

        def keep(case: Case) -> str:
            found.append(case)
            return "value"

        for _, _ in zip(range(count), rounds(run, keep, 10 * ROUND), strict=False):
            pass
        return found

    whole = seen(Progress(seed=5), 2)
    first = Progress(seed=5)
    begun = seen(first, 1)
    first.save(tmp_path / "state.json")
    resumed = Progress.load(tmp_path / "state.json", 5)
    assert resumed == first
    assert begun + seen(resumed, 1) == whole
    assert Progress.load(tmp_path / "state.json", 6) == Progress(seed=6)


def test_the_command_says_what_it_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(command.main)
    options = ["--cases", "50", "--state", str(tmp_path / "fuzz.json")]
    monkeypatch.setattr(command, "judge", lambda _: "value")
    good = CliRunner().invoke(app, options)
    assert (good.exit_code, "50 cases of seed 0 in 1 rounds: 50 value" in good.output) == (0, True)
    seen = Progress(0, 1, {"value": 49, "failed": 1}, ["def test_of_it() -> None:\n    judge(Case(...))\n"])
    seen.save(tmp_path / "fuzz.json")
    bad = CliRunner().invoke(app, options)
    assert bad.exit_code == 1
    assert "# failure 1\ndef test_of_it() -> None:\n    judge(Case(...))\n" in bad.output
