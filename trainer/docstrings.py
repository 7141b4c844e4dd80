"""Documentation strings of installed packages: text that is on every machine, for tasks to read."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

__all__ = ["Docstring", "docstrings"]

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """What one object's documentation says.

    package: as it is imported, such as "sklearn". module: dotted, such as "sklearn.tree". name:
    within the module, such as "Tree.fit"; "" of the module itself. text: never empty, without
    indentation.
    """

    package: str
    module: str
    name: str
    text: str


def docstrings(packages: Sequence[str]) -> Iterator[Docstring]:
    """All documentation strings of installed packages, from their sources; nothing is imported.

    Package by package as asked for, modules in the order of their names, objects as they stand in
    the file; so their order depends on the installed versions alone. Files that this Python cannot
    read are left out. Raises ModuleNotFoundError for a package that is not installed or has no
    sources.
    """
    for package in packages:
        for module, path in sorted(_modules(package)):
            for name, text in _in_file(path):
                yield Docstring(package, module, name, text)


def _modules(package: str) -> list[tuple[str, Path]]:
    """The modules of a package, (dotted name, source)."""
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise ModuleNotFoundError(f"the package {package!r} is not installed: pip install it")
    if spec.submodule_search_locations is None:
        paths = [(package, Path(spec.origin or ""))]
    else:
        paths = [
            (".".join([package, *path.relative_to(folder).with_suffix("").parts]), path)
            for folder in map(Path, spec.submodule_search_locations)
            for path in folder.rglob("*.py")
        ]
    found = [(name.removesuffix(".__init__"), path) for name, path in paths if path.suffix == ".py"]
    if not found:
        raise ModuleNotFoundError(f"the package {package!r} has no Python sources to read")
    return found


def _in_file(path: Path) -> Iterator[tuple[str, str]]:
    """The documentation strings of a file, (name, text)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other people's sources are warned of
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # templates, other Pythons, undecodable bytes
        return
    yield from _in_node(tree, "")


def _in_node(node: Documented, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node, clean=False)
    if text is not None and (cleaned := inspect.cleandoc(text).strip()):
        yield name, cleaned
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_node(child, f"{name}.{child.name}" if name else child.name)
