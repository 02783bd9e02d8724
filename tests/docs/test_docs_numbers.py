"""Each figure in the documentation is what produced it: results, tables of the package, the project file."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tnconv
from benchmarks import cases, compare, gpu, models, report, sampled, tensorised
from tests.docs.docs_code import DOCS
from tnconv.backends.torch.numerics.gram import block_rows
from tnconv.nn.tensorised import KINDS

ROOT = DOCS.parent
BENCHMARKS = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GENERATED = {
    "operations.md",
    "registry.md",
    "cli.md",
    "benchmarks.md",
    "prediction.md",
}  # compared as a whole by other tests
WORDS = {6: "six", 7: "seven", 11: "eleven"}


def results(name: str) -> Any:
    return json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))


def _sampled() -> str:
    found = results("sampled.json")
    rows, errors = [sampled.Row(**r) for r in found["rows"]], [sampled.Errors(**e) for e in found["errors"]]
    return sampled.report(rows, errors, found["machine"], found["batch"]) + "\n"


def _tensorised() -> str:
    found = results("tensorised.json")
    rows = [tensorised.Row(**row) for row in found["rows"]]
    return tensorised.report(rows, found["machine"], found["batch"]) + "\n"


def _models() -> str:
    found = results("models.json")
    return models.report(found["rows"], found["machine"], found["compiled"], found["captured"])


TABLES: dict[str, Callable[[], str]] = {
    "RESULTS.md": lambda: report.report(results("results.json")),
    "MODELS.md": _models,
    "SAMPLED.md": _sampled,
    "TENSORISED.md": _tensorised,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_page_of_results_is_written_from_them(name: str) -> None:
    lines = zip(
        TABLES[name]().splitlines(), (BENCHMARKS / name).read_text(encoding="utf-8").splitlines(), strict=True
    )
    assert [(made, stands) for made, stands in lines if made != stands] == []


def least(name: str) -> str:
    """The least version of a package that the project names."""
    (found,) = (d.partition(">=")[2] for d in PROJECT["dependencies"] if d.startswith(f"{name}>="))
    return str(found)


PYTHON = PROJECT["requires-python"].removeprefix(">=")
# page -> what it says, made from what decides it
SAID = {
    "README.md": [
        f"Both need Python {PYTHON} or newer",
        f"`make bench` (about {round(results('results.json')['minutes'])} minutes; `make bench-quick` takes one) times "
        f"{WORDS[len(cases.OPERATIONS)]} operations of every layer",
        f"every convolution of ResNet-18 for {WORDS[len(cases.DEMO_OPERATIONS)]} operations",
        "for 1 to 5 dimensions",
    ],
    "index.md": [
        f"it needs Python {PYTHON} or newer and PyTorch {least('torch')} or newer",
        f"every convolution of ResNet-18 for {WORDS[len(cases.DEMO_OPERATIONS)]} operations",
    ],
    "tensorised.md": [f"`tnconv.nn` has {WORDS[len(KINDS)]} kinds of them, for 1 to 3 spatial dimensions"],
    "howto/gpu.md": [
        f"PyTorch {'.'.join(map(str, gpu.LEAST_TORCH))} or newer and no network",
        f"It ends within {gpu.MINUTES} minutes",
    ],
    "howto/compare.md": [
        f"every row: {sum(map(len, cases.SETS.values())) * len(cases.OPERATIONS):,}, about",
        f"Rows above {compare.SLOWER} are measured twice more",
    ],
    "concepts/kernels.md": [
        f"`block=rt.block_rows(N*V, 112, 48, 256)`: an eighth of the rows, from {block_rows(112, 112, 48, 256)} to "
        f"{block_rows(10**6, 112, 48, 256)}, once there are 112."
    ],
}
# Of runs of minutes, which no test repeats: the example beside the figure prints them.
OF_EXAMPLES = {
    "howto/kfac_model.md": (
        "kfac_digits.py",
        ["97% of the test images take 29 to 37 steps", "it passes 97%"],
    ),
    "howto/laplace.md": ("laplace_digits.py", ["84% sure become 31%"]),
    "howto/less-memory.md": ("train_with_less_memory.py", []),
}
FIGURE = re.compile(
    r"(?<![\w.,-])\d+([.,]\d+)?\s?(×(?!\s?\d)|%|ms\b|µs|s\b|seconds|minutes|times\b|GiB|MiB|KiB|percent|MB\b|GB\b)|(?<![\w.])\d+\.\d+(?![.\d])"
)


def page(name: str) -> Path:
    """The page of that name, README.md or one of docs/."""
    return ROOT / name if name == "README.md" else DOCS / name


def _beside_its_fraction(line: str) -> str:
    """A line without percentages that code in it gives as a fraction, `30%` beside `budget=0.3`: these are choices."""
    code = " ".join(re.findall(r"`([^`]*)`", line))
    return re.sub(r"\b(\d+)%", lambda p: "" if re.search(rf"\b{int(p[1]) / 100:g}\b", code) else p[0], line)


def prose(page: Path) -> str:
    """A page without its code, links and years, and without the parts of the page on scale that test_scale_page compares."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if page.name == "scale.md":
        text = re.sub(r"^<!-- ([\w-]+) -->$.*?^<!-- end of \1 -->$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = "\n".join(map(_beside_its_fraction, text.splitlines()))
    return re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv:? \d+\.\d+", "", text)


@pytest.mark.parametrize("name", SAID)
def test_sentences_say_what_decides_them(name: str) -> None:
    text = " ".join(page(name).read_text(encoding="utf-8").split())
    assert [said for said in SAID[name] if said not in text] == []


def test_drop_ins_have_as_many_dimensions_as_the_readme_says() -> None:
    for dims, right in ((1, True), (5, True)):
        x, w = torch.ones(1, 1, *[2] * dims), torch.ones(1, 1, *[1] * dims)
        assert right == (tnconv.functional.convNd(x, w).shape == x.shape)


def test_figures_of_examples_stand_beside_the_example() -> None:
    for name, (example, said) in OF_EXAMPLES.items():
        text = " ".join(page(name).read_text(encoding="utf-8").split())
        assert f"examples/{example}" in text and (ROOT / "examples" / example).exists()
        assert [each for each in said if each not in text] == []


def test_every_figure_in_prose_has_a_producer() -> None:
    """Who writes a new one says here what makes it: a sentence in `SAID`, or an example that prints it."""
    unknown = []
    for path in PAGES:
        name = str(path.relative_to(ROOT if path.parent == ROOT else DOCS))
        if path.name in GENERATED or name in OF_EXAMPLES:
            continue
        text = " ".join(prose(path).split())
        for said in SAID.get(name, []):
            text = text.replace(" ".join(re.sub(r"`[^`]*`", "", said).split()), "")
        unknown += [f"{name}: {text[max(f.start() - 40, 0) : f.end() + 20]}" for f in FIGURE.finditer(text)]
    assert unknown == []


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert {PROJECT["version"], tnconv.__version__} == {
        re.search(r"^version: (.*)$", citation, re.MULTILINE)[1]
    }  # type: ignore[index]
    titles = re.findall(
        r"title *[:=] *[\"{](.*?)[\"}]", citation + (DOCS / "cite.md").read_text(encoding="utf-8")
    )
    assert sum("Convolutions and More as Einsum" in title for title in titles) == 2


def test_the_workflow_runs_what_the_local_run_does() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"run: (.*)$", workflow, re.MULTILINE) == [".ci/run", ".ci/release ${{ matrix.end }}"]
    targets = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test", "lint", "types"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in [*targets, "release-check"])


def test_the_recipe_of_the_template_names_both_spellings() -> None:
    """Renamed as the guide says, nothing of the template's name is left in what is installed or tested."""
    folder = ROOT / "examples" / "plugin"
    for page in (folder / "README.md", DOCS / "plugins.md"):
        text = " ".join(page.read_text(encoding="utf-8").split())
        assert (
            "`tnconv_template` (the package) and" in text and "`tnconv-template` (the distribution)" in text
        )
    for path in [folder / "pyproject.toml", *folder.glob("tests/*.py"), *folder.glob("src/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        renamed = text.replace("tnconv_template", "mine").replace("tnconv-template", "mine")
        if path.suffix == ".toml" or path.parent.name == "tests":
            assert "template" not in renamed.replace("A template", ""), path
        else:
            assert "tnconv_template" not in text and "tnconv-template" not in text, path
