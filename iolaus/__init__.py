"""Asynchronous, pruning, resumable Hydra sweeps on Optuna, with how each loss converged.

In a training script: `report`, `plan`, `should_stop`, `intervention`, and to go on after a crash
`get_checkpoint`, `should_checkpoint`; `record` for a run outside a sweep. On what a sweep left:
`load`, then `rank`, `compare`, `diagnose`, `convergence`, `importance`, and `write_report`; these
need `pip install 'hydra-iolaus[analysis]'`. In a config or with plain Optuna: the pruners.

Each name is imported when it is first used: `import iolaus` takes some 10 ms and loads no torch,
pandas, numpy, optuna or hydra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iolaus.analysis.data.sweep import load
    from iolaus.analysis.diagnosis.convergence import convergence
    from iolaus.analysis.diagnosis.diagnose import diagnose
    from iolaus.analysis.importance import importance
    from iolaus.analysis.ranking.rank import compare, rank
    from iolaus.analysis.report.report import write_report
    from iolaus.sweeps.pruners import (
        AllOf,
        AnyOf,
        Holdout,
        Interval,
        StalledLoss,
        VerdictPruner,
        WarmUp,
    )
    from iolaus.sweeps.reporting import (
        get_checkpoint,
        intervention,
        plan,
        report,
        should_checkpoint,
        should_stop,
    )
    from iolaus.sweeps.run.recording import Recorder, record

__all__ = [
    "AllOf",
    "AnyOf",
    "Holdout",
    "Interval",
    "Recorder",
    "StalledLoss",
    "VerdictPruner",
    "WarmUp",
    "compare",
    "convergence",
    "diagnose",
    "get_checkpoint",
    "importance",
    "intervention",
    "load",
    "plan",
    "rank",
    "record",
    "report",
    "should_checkpoint",
    "should_stop",
    "write_report",
]

_REPORTING = (
    "get_checkpoint",
    "intervention",
    "plan",
    "report",
    "should_checkpoint",
    "should_stop",
)
_PRUNERS = ("AllOf", "AnyOf", "Holdout", "Interval", "StalledLoss", "VerdictPruner", "WarmUp")
_HOMES = {
    **dict.fromkeys(_REPORTING, "iolaus.sweeps.reporting"),
    **dict.fromkeys(_PRUNERS, "iolaus.sweeps.pruners"),
    **dict.fromkeys(("compare", "rank"), "iolaus.analysis.ranking.rank"),
    "convergence": "iolaus.analysis.diagnosis.convergence",
    "diagnose": "iolaus.analysis.diagnosis.diagnose",
    **dict.fromkeys(("Recorder", "record"), "iolaus.sweeps.run.recording"),
    "importance": "iolaus.analysis.importance",
    "load": "iolaus.analysis.data.sweep",
    "write_report": "iolaus.analysis.report.report",
}


def __getattr__(name: str) -> Any:
    """A public name, imported now and kept (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'iolaus' has no attribute {name!r}; it has {__all__}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
