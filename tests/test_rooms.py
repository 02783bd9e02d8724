"""The rooms of the package and the direction between them, read from the imports of every file.

    errors, plugins <- ir <- passes <- ops <- planner <- program <- backends <- inspect, testing <- api <- functional <- nn, curvature, … <- optim <- tnconv <- cli

A room imports from itself and from rooms on its left. Layer specs and notation import errors and `ir` only.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "tnconv"
ROOT = Path(__file__).parent.parent / PACKAGE

LAYERS = (
    ("errors",),
    ("plugins",),
    ("ir",),
    ("spec", "notation"),
    ("passes",),
    ("ops",),
    ("planner",),
    ("program",),
    ("backends",),
    ("testing", "inspect"),
    ("compiler",),
    ("api",),
    ("functional",),
    ("nn", "curvature", "distributed"),
    ("optim", "integrations"),
    ("",),  # tnconv/__init__.py
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
ONLY = {"errors": set(), "plugins": {"errors"}, "spec": {"errors", "ir"}, "notation": {"errors", "ir"}}

# Libraries that a user's first call needs only sometimes and that are slow to import.
HEAVY = {"cotengra", "opt_einsum", "matplotlib", "rich", "sympy", "networkx", "torch"}
LATE = {"cli": set(RANK)}


@dataclass(frozen=True)
class Import:
    """One import statement: the module that it names, its line, and whether a function holds it."""

    module: str
    line: int
    late: bool


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = (PACKAGE, *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a file, those behind TYPE_CHECKING too; relative names made absolute."""
    tree = ast.parse(source)
    inside = {
        id(child)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*package, *filter(None, [node.module])])
            # `from tnconv import errors` names a room, `from tnconv import compile` the package itself.
            names = [f"{base}.{a.name}" if base == PACKAGE and a.name in RANK else base for a in node.names]
            yield from (Import(name, node.lineno, id(node) in inside) for name in dict.fromkeys(names))


def room_of(module: str) -> str | None:
    """The room of a module of the package, `""` for the package itself, None outside."""
    first, *rest = module.split(".")
    if first != PACKAGE:
        return None
    return rest[0] if rest else ""


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a file does against the rules, as `module:line: what, then what to do`."""
    room = room_of(module)
    if room not in RANK:
        return [f"{module}:1: room {room!r} is not in LAYERS; add it where it belongs"]
    found = []
    for item in sorted(imports(source, module, is_package), key=lambda i: (i.line, i.module)):
        where, other = f"{module}:{item.line}", room_of(item.module)
        if other is None:
            if item.late and item.module.split(".")[0] not in HEAVY:
                found.append(f"{where}: imports {item.module} inside a function; import it at the top")
            continue
        if item.late and other in LATE.get(room, ()):
            continue
        if item.late:
            found.append(f"{where}: imports {item.module} inside a function; import it at the top")
        allowed = ONLY.get(room)
        if other == room:
            continue
        if RANK.get(other, len(LAYERS)) >= RANK[room] or (allowed is not None and other not in allowed):
            found.append(
                f"{where}: {room or PACKAGE} imports {other or PACKAGE}, which is not below it; move the code"
            )
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_keeps_the_direction(path):
    found = breaches(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_files_are_found():
    names = {module_name(path) for path in FILES}
    assert {"tnconv", "tnconv.errors", "tnconv.ir.network", "tnconv.spec"} <= names


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("tnconv.ir.index", "from tnconv.passes import Pass", "ir imports passes, which is not below it"),
        ("tnconv.ir.index", "from tnconv import passes", "ir imports passes"),
        ("tnconv.ir.index", "import tnconv.api", "ir imports api"),
        ("tnconv.ir.index", "import tnconv", "ir imports tnconv"),
        ("tnconv.ir.index", "from tnconv import compile", "ir imports tnconv"),
        ("tnconv.ir.index", "from ..passes import Pass", "ir imports passes"),
        ("tnconv.ir.index", "from .. import passes", "ir imports passes"),
        ("tnconv.ir.index", "if TYPE_CHECKING:\n    from tnconv.ops import get", "index:2: ir imports ops"),
        ("tnconv.errors", "from tnconv.ir import Index", "errors imports ir"),
        ("tnconv.plugins", "from tnconv.ir import Index", "plugins imports ir"),
        ("tnconv.spec", "from tnconv.plugins import load", "spec imports plugins"),
        ("tnconv.spec", "from tnconv.planner.plan import Plan", "spec imports planner"),
        (
            "tnconv.passes.network_pass",
            "from tnconv.backends.reference import evaluate",
            "passes imports backends",
        ),
        ("tnconv.testing", "from tnconv.api import compile", "testing imports api"),
        ("tnconv.inspect.draw", "from tnconv.api import compile", "inspect imports api"),
        ("tnconv.inspect.draw", "from tnconv.cli import app", "inspect imports cli"),
        (
            "tnconv.ir.index",
            "def f():\n    from tnconv.ir.nodes import Node",
            "inside a function; import it at the top",
        ),
        ("tnconv.ir.index", "def f():\n    import json", "imports json inside a function"),
        (
            "tnconv.ir.index",
            "class A:\n    async def f(self):\n        import json",
            "index:3: imports json inside",
        ),
        ("tnconv.cellar.wine", "", "room 'cellar' is not in LAYERS; add it"),
    ],
)
def test_a_breach_is_found(module, source, message):
    found = breaches(source, module)
    assert len(found) >= 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "tnconv.ir.network",
            "from tnconv.errors import NetworkError\nfrom tnconv.ir.index import Index\nfrom . import nodes",
        ),
        (
            "tnconv.planner.search",
            "def f():\n    import cotengra as ctg\n    from opt_einsum import contract",
        ),
        ("tnconv.testing", "from tnconv.backends.reference import evaluate\nfrom tnconv import spec"),
        ("tnconv.api", "from tnconv.inspect.draw import draw"),
        (
            "tnconv.cli",
            "import tnconv\nfrom tnconv import compile\ndef f():\n    from tnconv.api import compile",
        ),
        ("tnconv", "from tnconv.api import compile"),
        ("tnconv.backends.torch.lower", "import torch\nfrom tnconv.planner.plan import Plan"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module, source):
    assert breaches(source, module) == []


def test_relative_imports_of_a_package_start_at_the_package():
    assert breaches("from .network import Network", "tnconv.ir", is_package=True) == []
    assert "ir imports passes" in breaches("from ..passes import Pass", "tnconv.ir", is_package=True)[0]


def test_what_source_calls_knows_no_plans_kernels_or_prices() -> None:
    """`numerics/` computes: what it imports of the package is itself, errors, arithmetic of sizes, and what goes on."""
    here = "tnconv.backends.torch.numerics"
    allowed = ("tnconv.errors", "tnconv.ir.shapes", "tnconv.backends.torch.context", here)
    files = [path for path in FILES if module_name(path).startswith(here)]
    found = {i.module for path in files for i in imports(path.read_text(encoding="utf-8"), module_name(path))}
    assert len(files) > 10
    assert [m for m in sorted(found) if room_of(m) is not None and not m.startswith(allowed)] == []


ARCHITECTURE = (ROOT.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")


def named_files() -> list[tuple[str, Path | None]]:
    """What each line of "to change … open …" names, and where it is: in the package, beside it, or beside the last."""
    found: list[tuple[str, Path | None]] = []
    table = ARCHITECTURE[ARCHITECTURE.index("## To change") : ARCHITECTURE.index("## Conventions")]
    for line in table.splitlines():
        beside = ROOT
        for name in re.findall(r"`([\w/]+(?:\.(?:py|json|yml)|/))`", line):
            places = (ROOT / name, ROOT.parent / name, beside / name)
            place = next((path for path in places if path.exists()), None)
            beside = beside if place is None else place if place.is_dir() else place.parent
            found.append((name, place))
    return found


def test_every_file_that_the_architecture_names_is_there() -> None:
    found = named_files()
    assert len(found) > 90
    assert [name for name, place in found if place is None] == []


def test_the_architecture_names_every_room() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert {room for room in rooms if f"`{room}/`" not in ARCHITECTURE} == set()
