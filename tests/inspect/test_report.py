"""The report: one file that needs no other, says everything, and works in a browser."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
import torch

import tnconv
from tnconv import ConvSpec, ConvTransposeSpec, LinearSpec, PoolSpec, UnfoldSpec
from tnconv.backends.tuning import Trial
from tnconv.errors import TnconvError
from tnconv.inspect.report import SECTIONS, report, to_html

SPEC = ConvSpec(6, 8, 3, (9, 8), stride=2, padding=1, groups=2, bias=True)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def function():
    return tnconv.compile(SPEC, "kfac_reduce")


def plain(text: str) -> str:
    """The text that a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_everything_is_said(function):
    page = to_html(function)
    text = plain(page)
    assert re.findall(r'<section id="(\w+)"', page) == list(SECTIONS)
    for stage in function.stages:
        assert stage.text in text
        for note in stage.notes:
            assert note in text
    for choice in function.program.choices:
        for kernel, _ in choice.candidates:
            assert kernel in text
    assert function.source in text and str(function.program) in text
    for each in function.program.stages:
        assert (f"{each.text}: {each.statements[0]} statements before" in text) == each.changed
    assert str(function.plan) in text
    assert str(function.network) in text
    assert str(function.stages[0].before) in text
    assert tnconv.ops.get("kfac_reduce").formula in text
    assert "The rest of the network without one node." in text  # what `cut` does
    changed = sum(stage.changed for stage in function.stages)
    assert page.count("<h3>before</h3>") == page.count("<h3>after</h3>") == changed


SPECS = (
    SPEC,
    ConvTransposeSpec(4, 6, 3, 5, stride=2, output_padding=1),
    LinearSpec(3, 4, input_size=(2,), bias=True),
    PoolSpec("C", 2, (6,)),
    UnfoldSpec(3, 2, (6, 6), dilation=2),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_every_field_of_the_layer_is_shown(spec):
    page = origin(to_html(tnconv.compile(spec)))
    assert plain(page).startswith(f"Compiled from{type(spec).__name__}: {type(spec).__doc__.splitlines()[0]}")
    rows = re.findall(
        r'<tr class="(given|default)"><td>(\w+)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', page
    )
    assert [name for _, name, *_ in rows] == [field.name for field in fields(spec)]
    for css, name, value, default, meaning in rows:
        (field,) = (each for each in fields(spec) if each.name == name)
        assert plain(value) == repr(getattr(spec, name))
        assert plain(default) == ("–" if field.default is MISSING else repr(field.default))
        assert css == ("default" if getattr(spec, name) == field.default else "given")
        assert plain(meaning).endswith(".")
    assert str(tnconv.compile(spec, passes="none").network) in plain(page)


def test_a_field_at_its_default_is_not_marked():
    page = origin(to_html(tnconv.compile(ConvSpec(6, 8, 3, 9, stride=1, padding="same"))))
    assert '<tr class="default"><td>stride</td><td><code>1</code></td>' in page
    assert (
        '<tr class="given"><td>padding</td><td><code>&#x27;same&#x27;</code></td><td><code>0</code></td>'
        in page
    )


def test_an_equation_or_a_network_is_shown_as_it_was_given():
    page = origin(to_html(tnconv.einsum_expression("n c 2*h+r-3, k c r -> n k h", ("N", 3, 9), (4, 3, 3))))
    assert "An equation:n c 2*h+r-3, k c r -> n k h" in plain(page) and "<tr" not in page
    network = SPEC.network().terms[0].rename("mine")
    page = to_html(tnconv.compile(network))
    assert str(network) in plain(origin(page)) and "<tr" not in origin(page)
    assert tnconv.ops.get("forward").formula not in plain(page)  # which says what the forward of a layer is
    assert tnconv.ops.get("unfold").formula in plain(to_html(tnconv.compile(network, "unfold")))


def test_a_module_is_shown_as_its_layer():
    module = torch.nn.Conv2d(3, 4, 3, padding=1)
    function = tnconv.compile(module, input_size=(8, 8))
    assert function.spec == tnconv.spec_from_module(module, (8, 8))
    assert "(8, 8)" in origin(to_html(function))


def origin(page: str) -> str:
    """The part about what was compiled."""
    return page[page.index('<section id="origin"') : page.index('<section id="operation"')]


def test_what_changed_is_marked(function):
    page = to_html(function)
    cut = page[page.index('id="stage0"') : page.index('id="stage1"')]
    assert 'class="parameter marked"' in cut and 'class="input marked"' not in cut


def test_it_needs_no_other_file(function):
    page = to_html(function)
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page)) == {"data:,"}
    assert "@import" not in page and "url(" not in page and "fetch(" not in page
    assert set(re.findall(r"https?://[^\s\"<)]*", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.usefixtures("anew")
def test_it_is_deterministic(function):
    assert to_html(function) == to_html(tnconv.compile(SPEC, "kfac_reduce"))


def test_measured_times_are_shown_after_autotuning(function):
    assert "compile with autotune=True" in to_html(function)
    function = tnconv.compile(SPEC, "kfac_reduce")
    function.trials = (Trial(0, (), 10.0, 12345.0), Trial(1, ("fold",), 20.0, 7.0))
    page = to_html(function)
    assert "12.3 ms" in page and "compile with autotune=True" not in page
    assert re.search(r'<tr class="chosen"><td>1</td><td>fold</td><td>20.0 µs</td><td>7.00 µs</td>', page)


def test_other_backends_and_networks_of_ones_own_have_one_too():
    assert "does not choose between kernels" in to_html(tnconv.compile(SPEC, backend="reference"))
    page = to_html(tnconv.compile(SPEC.network(), passes="none"))
    assert "No pass was run." in page


def test_names_are_escaped():
    function = tnconv.compile(LinearSpec(3, 4))
    function.op = "<script>"
    assert "<code>&lt;script&gt;</code>" in to_html(function)


def test_report_writes_the_file_and_says_what_is_wrong(function, tmp_path):
    function.report(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == to_html(function)
    with pytest.raises(TnconvError, match=r"a.pdf' has suffix '.pdf'; reports are written as .html"):
        report(function, tmp_path / "a.pdf")
    with pytest.raises(TnconvError, match=r"a.html' cannot be written: .*; check the path"):
        report(function, tmp_path / "none" / "a.html")


# -- in a browser ------------------------------------------------------------------------------------

# Clicks through the stages, then goes back with the keys; looks at the texts of every diagram that is shown.
PROBE = """
<script>
const errors = [], overlaps = [], shown = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
const look = (root) => {
  for (const svg of root.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
      const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) - 3;  // rows of a card touch
      if (x > 0.5 && y > 0.5) overlaps.push([a, b]);
    }));
    const frame = svg.getBoundingClientRect();
    for (const [a, p] of texts) if (p.left < frame.left - 1 || p.right > frame.right + 1) overlaps.push([a, "the edge"]);
  }
};
const visible = () => [...document.querySelectorAll(".stage")].filter((s) => s.offsetParent !== null);
const selected = () => document.querySelector('[role="tab"][aria-selected="true"]').id;
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
window.addEventListener("load", () => {
  try {
    look(document.querySelector("main"));
    for (const tab of document.querySelectorAll('[role="tab"]')) {
      tab.click();
      look(document.querySelector("#stages"));
      shown.push(visible().map((s) => s.id));
    }
    const keys = {};
    press("ArrowLeft"); keys.left = selected();
    press("Home"); keys.home = selected();
    press("ArrowRight"); keys.right = selected();
    press("End"); keys.end = selected();
    press("ArrowRight"); keys.stays = selected();
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const ink = getComputedStyle(document.body).color;
    document.title = "RESULT" + JSON.stringify({ errors, overlaps, shown, keys, wide, ink });
  } catch (error) { document.title = "RESULT" + JSON.stringify({ errors: [...errors, String(error)] }); }
});
</script>
"""


def browse(page: str, folder: Path, dark: bool = False) -> dict:
    """What the probe found in Chromium."""
    file = folder / "page.html"
    file.write_text(page.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--window-size=1200,900",
        "--virtual-time-budget=5000",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--dump-dom",
        file.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = re.search(r"<title>RESULT(.*?)</title>", result.stdout, re.DOTALL)
    assert found, result.stdout[:2000]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("op", ["forward", "gradient_norm", "ntk"])
def test_a_reader_can_click_through_the_stages(op, tmp_path):
    function = tnconv.compile(replace(SPEC, bias=op == "forward"), op)
    found = browse(to_html(function), tmp_path, dark=op == "ntk")
    last = len(function.stages) - 1
    assert found["errors"] == []
    assert found["overlaps"] == []
    assert found["shown"] == [[f"stage{n}"] for n in range(last + 1)]
    assert found["keys"] == {
        "left": f"tab{last - 1}",
        "home": "tab0",
        "right": "tab1",
        "end": f"tab{last}",
        "stays": f"tab{last}",
    }
    assert found["wide"] <= 0  # the page itself does not scroll sideways
    assert found["ink"] == ("rgb(227, 233, 241)" if op == "ntk" else "rgb(29, 39, 51)")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_probe_finds_what_is_wrong(function, tmp_path):
    page = to_html(function).replace("</body>", "<script>nothing_there()</script></body>")
    with pytest.raises(AssertionError, match="nothing_there"):
        browse(page, tmp_path)
    overlapping = (
        '<svg width="99" height="40"><text x="5" y="20">abc</text><text x="9" y="20">def</text></svg>'
    )
    found = browse(to_html(function).replace("<main>", f"<main>{overlapping}"), tmp_path)
    assert ["abc", "def"] in found["overlaps"]
