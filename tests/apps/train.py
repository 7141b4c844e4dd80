"""The trainer, started from here: what lies beside can be named in its config."""

import runpy
from pathlib import Path

import iolaus

if __name__ == "__main__":
    runpy.run_path(str(Path(iolaus.__file__).parent / "trainer" / "__main__.py"), None, "__main__")
