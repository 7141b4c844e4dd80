"""The code of a session that no package index has: the app's own, and what is installed editable.

Modules and packages are known by their names and what their files say, not by where they lie: a
copy is the same code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

__all__ = ["content_of", "own_code"]

# What a package's behaviour is written in; configs are compared by what they say.
SUFFIXES = (".py", ".pyx", ".c", ".cc", ".cpp", ".h", ".cu", ".cuh")
# A folder with more entries is taken for data, and not looked at.
N_ENTRIES = 10_000
# Longer files are data or made by a machine, and count by their length.
N_BYTES = 4_000_000
_IMPORT = re.compile(rb"^[ \t]*(?:import[ \t]+([\w., \t]+)|from[ \t]+(\w+))", re.MULTILINE)
_NOT_CODE = ("site-packages", "dist-packages", "__pycache__")


def own_code(modules: Mapping[str, ModuleType], named: Iterable[str] = ()) -> dict[str, str]:
    """Digests (eight hexadecimal digits) by name of the modules and packages that are one's own.

    Own is what lies neither in Python's library nor among installed packages. It is found from what
    is loaded, from `named` (dotted names, as in `_target_`), and from there by what each file
    imports, at its top or inside a function. The script itself goes by its file's name. Nothing is
    imported. Files that cannot be read count as empty.
    """
    found: dict[str, str] = {}
    names = [*modules, *named]
    seen = {*sys.stdlib_module_names, *sys.builtin_module_names, "__mp_main__"}  # __main__ again
    while names:
        name = names.pop().partition(".")[0]
        if name in seen:
            continue
        seen.add(name)
        digest, size = hashlib.sha256(), 0
        for root in sorted(_places(name, modules)):
            for inside, path in _files(root):
                content = content_of(path)
                digest.update(f"{inside}\0{len(content)}\0".encode() + content)
                names += _imported(content)
                size += 1
        if size:
            found[_shown(name, modules)] = digest.hexdigest()[:8]
    return dict(sorted(found.items()))


def _imported(content: bytes) -> set[str]:
    """The names after `import` and `from`; words of a docstring may be among them."""
    lists = [modules or package for modules, package in _IMPORT.findall(content)]
    parts = [part.split() for modules in lists for part in modules.decode().split(",")]
    return {words[0] for words in parts if words}


def _places(name: str, modules: Mapping[str, ModuleType]) -> set[Path]:
    """The file of a top-level module, or the folders of a package, that are one's own."""
    if (module := modules.get(name)) is not None:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return set()
        file, folders = (spec.origin, spec.submodule_search_locations) if spec else (None, None)
    places = [*folders] if folders else [file]
    return {Path(place) for place in places if place and _is_own(Path(place))}


def _is_own(place: Path) -> bool:
    paths = sysconfig.get_paths()
    libraries = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    libraries += [*site.getsitepackages(), site.getusersitepackages()]
    path = place.absolute()
    return (
        place.exists()
        and not any(path.is_relative_to(library) for library in libraries)
        and not set(_NOT_CODE) & set(path.parts)
    )


def _files(root: Path) -> Iterable[tuple[str, Path]]:
    """A package's source files by their paths inside it, in order; a module is its one file.

    Links are followed, but into no folder twice. What lies below a folder without sources is data.
    """
    if root.is_file():
        yield root.name, root
        return
    folders, entered = [root], set()
    while folders:
        folder = folders.pop()
        if (real := folder.resolve()) in entered:
            continue
        entered.add(real)
        entries = _entries(folder)
        sources = [e for e in entries if e.name.endswith(SUFFIXES) and e.is_file()]
        yield from ((str(Path(e.path).relative_to(root)), Path(e.path)) for e in sources)
        if sources or folder == root:
            inner = (e for e in entries if e.name not in _NOT_CODE and not e.name.startswith("."))
            folders += [Path(entry.path) for entry in inner if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    entries: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                entries.append(entry)
                if len(entries) > N_ENTRIES:
                    return []
    except OSError:
        return []
    return sorted(entries, key=lambda entry: entry.name)


def content_of(path: Path) -> bytes:
    """What a file says; of one that is too long to be code its length; b"" if it cannot be read."""
    try:
        size = path.stat().st_size
        return path.read_bytes() if size <= N_BYTES else str(size).encode()
    except OSError:
        return b""


def _shown(name: str, modules: Mapping[str, ModuleType]) -> str:
    file = getattr(modules.get(name), "__file__", None)
    if name != "__main__" or not file:
        return name
    path = Path(file)
    return path.parent.name if path.stem == name else path.stem  # `python -m package`
