"""The floor plan: small rooms and modules, imports that go one way and in no circle, one name a class."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"fastv_runtime": "runtime", "fastv_export": "export", "fastv_calib": "calib"}
MAY_IMPORT = {
    "fastv_runtime": {"fastv_runtime"},
    "fastv_export": {"fastv_runtime", "fastv_export"},
    "fastv_calib": {"fastv_runtime", "fastv_export", "fastv_calib"},
}
MOST_MODULES = 14
MOST_LINES = 300


def modules() -> dict[str, Path]:
    """Files of the three packages by their dotted names."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(name: str) -> Iterator[str]:
    """Modules of the three packages that a module imports, in functions too, but not for type checkers alone."""
    ignored = {
        id(inner)
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for each in node.body
        for inner in ast.walk(each)
    }
    for node in ast.walk(TREES[name]):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.ImportFrom) and node.module in MODULES and node.level == 0:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            # A name of a package is a module of it, or something that its __init__ has.
            yield from (each if each in MODULES else node.module for each in whole)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def test_folders_have_few_modules() -> None:
    folders = defaultdict(list)
    for path in MODULES.values():
        folders[path.parent.relative_to(ROOT)].append(path.name)
    assert {str(folder): len(names) for folder, names in folders.items() if len(names) > MOST_MODULES} == {}


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_packages_say_what_they_are_in_one_sentence() -> None:
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            first = (ast.get_docstring(TREES[name]) or "").split("\n\n")[0]
            assert first.endswith((".", ":")), name


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        if name.split(".")[0] == package
        for other in imported(name)
        if other.split(".")[0] not in MAY_IMPORT[package]
    ]
    assert wrong == []


def test_no_imports_go_in_a_circle() -> None:
    graph = {name: {other for other in imported(name) if other != name} for name in MODULES}
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_page_of_structure_has_every_package_in_its_own_words() -> None:
    page = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            sentence = " ".join((ast.get_docstring(TREES[name]) or "").split("\n\n")[0].split())
            assert f"| `{name.replace('.', '/')}` | {sentence} |" in page


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("fastv_runtime.backends", ("fastv_runtime.tensorrt_build", "fastv_runtime.bench", "fastv_runtime.generation")),
        ("fastv_runtime.report", ("fastv_runtime.bench",)),
        ("fastv_runtime.config", ("fastv_runtime.generation", "fastv_runtime.bench", "fastv_runtime.preprocessing")),
        ("fastv_runtime", ("fastv_runtime.cli",)),
    ],
)
def test_rooms_do_not_know_who_uses_them(room: str, never: tuple[str, ...]) -> None:
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        if name.startswith(f"{room}.") and not name.startswith(never)
        for other in imported(name)
        if other.startswith(never)
    ]
    assert wrong == []
