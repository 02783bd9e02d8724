"""Plug-ins: the table, distributions on the path, and what a running process registers."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tnconv import plugins
from tnconv.errors import PassError, PluginError
from tnconv.ir import parse_network
from tnconv.passes import Pass, PassResult, Pipeline, available, get, register_pass

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def example(monkeypatch):
    """The sample distribution, on the path but not installed."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    sys.modules.pop("tnconv_example", None)


def distribution(path, name, entry_points, module="", text=""):
    """Write a distribution into a folder."""
    info = path / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if module:
        (path / f"{module}.py").write_text(text)


def test_every_built_in_pass_loads_and_has_its_name():
    found = plugins.load(plugins.PASSES)
    assert {name: kind.name for name, kind in found.items()} == {name: name for name in available()}
    assert len(found) >= 16


def test_a_distribution_on_the_path_is_found(example):
    network = parse_network(
        "network a {\n index [i=5, k=2, o=4]\n x = input [i]\n p = pattern [i = o + k]\n q = pattern [i = o + k]\n output [k]\n}"
    )
    assert "share_patterns" in available()
    after, (stage,) = Pipeline.parse("share_patterns").run(network)
    assert stage.notes == ("dropped q",)
    assert [p.name for p in after.patterns] == ["p"]
    assert get("share_patterns").__module__ == "tnconv_example"


def test_a_distribution_off_the_path_is_not():
    assert "share_patterns" not in available()


def test_a_name_clash_names_both_owners(tmp_path, monkeypatch, example):
    distribution(tmp_path, "other", "[tnconv.passes]\nshare_patterns = other:Pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        PluginError, match=r"(other and tnconv-example|tnconv-example and other) both add 'share_patterns'"
    ):
        available()


def test_a_built_in_name_cannot_be_taken(tmp_path, monkeypatch):
    distribution(tmp_path, "greedy", "[tnconv.passes]\ndense = greedy:Pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"tnconv and greedy both add 'dense' to tnconv\.passes"):
        plugins.names(plugins.PASSES)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("import no_such_module_at_all", "broken_plugin:Pass", "ModuleNotFoundError: No module named"),
        ("", "broken_plugin:Missing", "AttributeError: module 'broken_plugin' has no attribute 'Missing'"),
        ("raise SystemError('bad build')", "broken_plugin:Pass", "SystemError: bad build"),
    ],
)
def test_a_broken_plugin_names_its_distribution(tmp_path, monkeypatch, text, target, message):
    distribution(tmp_path, "broken", f"[tnconv.passes]\nbroken = {target}\n", "broken_plugin", text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "broken" in available(), "names do not import"
    with pytest.raises(PluginError, match=f"'broken' of distribution 'broken' cannot be loaded .*{message}"):
        get("broken")
    sys.modules.pop("broken_plugin", None)


def test_refresh_sees_what_came_later(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late" not in available()
    distribution(tmp_path, "late", "[tnconv.passes]\nlate = late:Pass\n")
    plugins.refresh()
    assert "late" in available()


def test_what_is_not_a_pass_is_refused(tmp_path, monkeypatch):
    distribution(tmp_path, "odd", "[tnconv.passes]\nodd = json:dumps\nmisnamed = tnconv.passes.batch:Batch\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PassError, match=r"is not a pass; subclass tnconv\.passes\.Pass"):
        get("odd")
    with pytest.raises(PassError, match="pass Batch has name 'batch' but is registered as 'misnamed'"):
        get("misnamed")


def test_unknown_groups_and_names():
    with pytest.raises(
        PluginError,
        match=r"no plug-in group 'tnconv.colours' \(did you mean 'tnconv.planners'\?\); the groups are tnconv\.passes, ",
    ):
        plugins.load("tnconv.colours")
    with pytest.raises(PluginError, match=r"group tnconv\.passes has no 'nothing'; it has absorb_deltas, "):
        plugins.get(plugins.PASSES, "nothing")


@pytest.fixture
def registered():
    """Take back what a test registers."""
    yield
    plugins.unregister(plugins.PASSES, "flip_twice")


def test_register_pass(registered):
    def define():
        @register_pass
        @dataclass(frozen=True)
        class FlipTwice(Pass):
            name: ClassVar[str] = "flip_twice"

            def apply(self, network):
                return PassResult(network, changed=False)

        return FlipTwice

    first = define()
    assert get("flip_twice") is first
    assert "flip_twice" in available()
    second = define()
    assert get("flip_twice") is second is not first, "a cell that runs again replaces its pass"
    with pytest.raises(PluginError, match="both add 'flip_twice'"):
        plugins.register(plugins.PASSES, "flip_twice", dict)


def test_register_pass_refuses_what_is_no_pass():
    with pytest.raises(PassError, match="<class 'dict'> is not a pass"):
        register_pass(dict)

    class Loose(Pass):
        name: ClassVar[str] = "loose"

    with pytest.raises(PassError, match="pass Loose is not a frozen dataclass"):
        register_pass(Loose)

    @dataclass(frozen=True)
    class Nameless(Pass):
        pass

    with pytest.raises(PassError, match="pass Nameless has name None but is registered as None"):
        register_pass(Nameless)

    @dataclass(frozen=True)
    class Thief(Pass):
        name: ClassVar[str] = "dense"

    with pytest.raises(PassError, match=r"tnconv and .*Thief both add 'dense'"):
        register_pass(Thief)


def test_the_example_runs(capsys):
    runpy.run_path(str(PLUGIN.parent.parent / "examples" / "custom_pass.py"), run_name="__main__")
    plugins.unregister(plugins.PASSES, "ones")
    printed = capsys.readouterr().out
    assert "network conv2d.forward {" in printed
    assert "weight" not in printed


def test_the_recipe_of_the_template_renames_all_of_it(tmp_path):
    """What its README says to replace, in the files that it names, leaves nothing of the old name."""
    template = Path(__file__).parent.parent / "examples" / "plugin"
    step = next(
        line for line in (template / "README.md").read_text().split("\n\n") if "Copy the folder" in line
    )
    old = ("tnconv_template", "tnconv-template")
    assert all(f"`{name}`" in step for name in old) and "`pyproject.toml` and `tests/`" in step
    for file in (template / "pyproject.toml", *(template / "tests").glob("*.py")):
        text = file.read_text()
        for name, new in zip(old, ("my_passes", "my-passes"), strict=True):
            text = text.replace(name, new)
        assert "template" not in text
    sources = "".join(file.read_text() for file in (template / "src").rglob("*.py"))
    assert not any(name in sources for name in old)  # files of the package need no change
