"""The report at the end of a sweep: a function of another package, found by its name.

A package offers one as an entry point of the group `iolaus.reports`: a function that is given the
sweep's folder and returns the paths of what it made. It is imported when the sweep is over, so that
a sweep pays for no plotting library while it runs.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._factories import function_named
from iolaus.sweeps.text import to_install

__all__ = ["GROUP", "Report", "find_report", "write_report"]

log = logging.getLogger("sweeps")

GROUP = "iolaus.reports"
Report = Callable[[Path], Sequence[Path]]


def find_report(name: str | None) -> Report | None:
    """The report of this name; None for no report.

    name: of an entry point, or a dotted name of a function. Raises BadInputError for a name that is
    neither. Where no package has entry points at all (a checkout that was never installed) there is
    no report, with a line that says so.
    """
    if name is None:
        return None
    if "." in name:
        return function_named("report", name)
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name in known:
        return lambda folder: known[name].load()(folder)
    if known:
        raise BadInputError(
            f"hydra.sweeper.report={name}: choose from {', '.join(sorted(known))}, give "
            "module.function of your own, or null for no report"
        )
    log.info("no report: no installed package offers one (entry points of %s)", GROUP)
    return None


def write_report(report: Report, folder: Path) -> Sequence[Path]:
    """What a report has made of a sweep's folder; nothing, with a line, if it cannot.

    One who presses Ctrl-C meanwhile does not want to wait for it.
    """
    try:
        return report(folder)
    except KeyboardInterrupt:
        log.info("no report: interrupted; iolaus report %s makes it", shlex.quote(str(folder)))
    except ImportError as error:
        log.info("no report: %s; for figures: %s", error, to_install("analysis"))
    except Exception:
        log.exception("the report could not be made; the sweep's results are not affected")
    return ()
