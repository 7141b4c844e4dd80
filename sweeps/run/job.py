"""A trial as a Hydra job: its config, its folder, its log, its task function.

The same as Hydra's `run_job` (hydra/core/utils.py), for less: a branch of config groups is composed
once and kept as bytes, a trial's values are applied to a copy, and YAML is written by libyaml.
Measured on one core: 4 ms against 55.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import math
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import optuna
import yaml
from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import get_omega_conf_dumper

from iolaus.sweeps.errors import SweepFailedError
from iolaus.sweeps.reporting import Reporter
from iolaus.sweeps.run.messages import Assignment
from iolaus.sweeps.search.composing import Composer
from iolaus.sweeps.types import Ending, Finding, Outcome, Verdict

# The parts of Hydra's own config that differ between trials of one branch.
VARYING = ("overrides", "job", "runtime")
# Everything the task prints, beside Hydra's own log file.
OUTPUT_FILE = "output.log"


# Looks at a composed config without its `hydra` node, and says what is wrong with it.
Lint = Callable[[DictConfig], Sequence[Finding]]


class HydraRunner:
    """Runs trials of a Hydra app in a worker process; a `iolaus.sweeps.run.workers.Runner`.

    lint: asked about each trial's config before the task is called; a trial it rules out costs no
    compute.
    """

    def __init__(
        self,
        context: HydraContext,
        task_function: TaskFunction,
        composer: Composer,
        lint: Lint = lambda _: (),
    ) -> None:
        self._context = context
        self._task_function = task_function
        self._composer = composer
        self._lint = lint
        self._constant_yaml: dict[tuple[str, ...], str] = {}

    def __call__(self, assignment: Assignment, reporter: Reporter) -> Outcome:
        """Run one trial; whatever the task does, the outcome says so in a sentence."""
        try:
            config, folder = self.place(assignment, reporter)
            with output_to(folder / OUTPUT_FILE):
                findings = self.findings(config)
                if is_ruled_out(findings):
                    return infeasible(findings)
                result = self._run(config, folder)
        except Exception as error:
            return not_begun(error)
        return replace(
            outcome_of(result, reporter.verdict if reporter.acknowledged else None),
            findings=findings,
        )

    def place(self, assignment: Assignment, reporter: Reporter) -> tuple[DictConfig, Path]:
        """A trial's whole config and its folder."""
        config = self._composer.compose(assignment.overrides)
        folder = set_job(config, assignment.trial)
        reporter.place(str(folder))
        return config, folder

    def findings(self, config: DictConfig) -> tuple[Finding, ...]:
        """What the lint says of a config."""
        return tuple(self._lint(_without_hydra(config)))

    def begin(self, config: DictConfig, folder: Path) -> JobReturn:
        """A job with its configs on disk, before its task is called."""
        result = JobReturn()
        result.task_name = JobRuntime.instance().get("name")
        result.overrides = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task))
        result.cfg = _without_hydra(config)
        result.hydra_cfg = cast(DictConfig, HydraConfig.instance().cfg)
        result.working_dir = str(folder if changes_directory(config) else Path.cwd())
        if config.hydra.output_subdir is not None:
            self._save_configs(result, folder / config.hydra.output_subdir)
        self._context.callbacks.on_job_start(config=config, task_function=self._task_function)
        return result

    def end(self, config: DictConfig, result: JobReturn) -> None:
        """A job is over."""
        self._context.callbacks.on_job_end(config=config, job_return=result)

    def _run(self, config: DictConfig, folder: Path) -> JobReturn:
        old_directory = Path.cwd()
        try:
            if changes_directory(config):
                os.chdir(folder)
            configure_log(config.hydra.job_logging, config.hydra.verbose)
            with env_override(config.hydra.job.env_set):
                result = self.begin(config, folder)
                try:
                    result.return_value = self._task_function(result.cfg)
                    result.status = JobStatus.COMPLETED
                except (Exception, SystemExit, KeyboardInterrupt) as error:
                    if not isinstance(error, optuna.TrialPruned):
                        logging.getLogger(__name__).error("the task failed", exc_info=error)
                    result.return_value = error
                    result.status = JobStatus.FAILED
            self.end(config, result)
        finally:
            os.chdir(old_directory)
            for handler in logging.getLogger().handlers:
                handler.flush()
        return result

    def _save_configs(self, result: JobReturn, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(result.cfg), encoding="utf-8")
        (folder / "overrides.yaml").write_text(to_yaml(result.overrides), encoding="utf-8")
        hydra_cfg = cast(DictConfig, result.hydra_cfg)
        # All but a few lines are the same for all trials of one branch with the same overrides of
        # Hydra itself.
        of_hydra = cast(list[str], _plain(hydra_cfg.hydra.overrides.hydra))
        choices = cast(dict[str, Any], _plain(hydra_cfg.hydra.runtime.choices))
        shape = (*of_hydra, *(f"{group}={choice}" for group, choice in choices.items()))
        if shape not in self._constant_yaml:
            plain = cast(dict[str, Any], _plain(hydra_cfg))["hydra"]
            self._constant_yaml[shape] = to_yaml(
                {"hydra": {k: v for k, v in plain.items() if k not in VARYING}}
            )
        varying = to_yaml({"hydra": {key: hydra_cfg.hydra[key] for key in VARYING}})
        text = self._constant_yaml[shape] + varying.removeprefix("hydra:\n")
        (folder / "hydra.yaml").write_text(text, encoding="utf-8")


def is_ruled_out(findings: Sequence[Finding]) -> bool:
    """Whether a lint found that a trial is not to be run."""
    return any(finding.rule == "infeasible" for finding in findings)


def infeasible(findings: Sequence[Finding]) -> Outcome:
    """The outcome of a trial that is ruled out."""
    reason = next(finding.text for finding in findings if finding.rule == "infeasible")
    return Outcome(Ending.INFEASIBLE, reason=reason, findings=tuple(findings))


def not_begun(error: Exception) -> Outcome:
    """The outcome of a trial whose task was never called."""
    return Outcome(Ending.FAILED, reason=f"{describe(error)} (before the task began)")


class FolderReturn(JobReturn):
    """A finished trial as Hydra's callers know it.

    Its configs are read from its folder when they are asked for.
    """

    def __init__(
        self, overrides: Sequence[str], folder: Path, working_dir: str, outcome: Outcome
    ) -> None:
        self.overrides = list(overrides)
        self.working_dir = working_dir
        self.task_name = JobRuntime.instance().get("name")
        self._folder = folder
        failed = outcome.ending in (Ending.FAILED, Ending.INTERRUPTED)
        self.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        self._return_value = SweepFailedError(outcome.reason) if failed else outcome.returned

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        """The task's config."""
        return cast(DictConfig, OmegaConf.load(self._folder / ".hydra" / "config.yaml"))

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        """Hydra's own config."""
        return cast(DictConfig, OmegaConf.load(self._folder / ".hydra" / "hydra.yaml"))


def changes_directory(config: DictConfig) -> bool:
    """Whether a job runs in its folder.

    Hydra's rule: apps that ask for the behaviour before 1.2 still do.
    """
    chdir = config.hydra.job.chdir
    return not version.base_at_least("1.2") if chdir is None else bool(chdir)


def set_job(config: DictConfig, trial: int) -> Path:
    """Give a composed config its trial's number and output folder.

    Returns the folder, made if it was missing.
    """
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = str(trial)
        config.hydra.job.num = trial
    _set_hydra_config(config)  # the folder's name may be written with ${hydra:...}
    folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _set_hydra_config(config: DictConfig) -> None:
    """What `HydraConfig.set_config` does, with the `hydra` node shared instead of copied."""
    OmegaConf.set_readonly(config.hydra, True)
    holder = OmegaConf.create({})
    holder.__dict__["_content"]["hydra"] = (
        config.hydra
    )  # its parent stays `config`, for interpolations into it
    HydraConfig.instance().cfg = cast(Any, holder)


def outcome_of(result: JobReturn, verdict: Verdict | None) -> Outcome:
    """What came of a job. verdict.

    Why the sweep ended it, if the task took notice before it was over.
    """
    returned = result._return_value
    if verdict is not None or isinstance(returned, optuna.TrialPruned):
        ending = (
            Ending.DIVERGED if verdict is not None and verdict.rule == "diverged" else Ending.PRUNED
        )
        reason = (
            verdict.reason if verdict is not None else str(returned) or "the task pruned itself"
        )
        return Outcome(ending, reason=reason, verdict=verdict)
    if isinstance(returned, BaseException):
        gc.collect()  # the traceback may hold a model; let its memory go before the next trial
        return Outcome(Ending.FAILED, reason=describe(returned))
    values = as_floats(returned)
    bad = [value for value in values if math.isnan(value)]
    if bad:
        reason = "the task returned nan"
        verdict = Verdict("diverged", 0, reason, {"returned": math.nan})
        return Outcome(
            Ending.DIVERGED, reason=reason, verdict=verdict, returned=_sendable(returned)
        )
    return Outcome(Ending.COMPLETED, values=values, returned=_sendable(returned))


def as_floats(returned: Any) -> tuple[float, ...]:
    """The task's return value as numbers.

    One for a number or one-element tensor, several for a sequence, else none.
    """
    items = returned if isinstance(returned, list | tuple) else [returned]
    if any(isinstance(item, str | bytes | None) for item in items):
        return ()
    try:
        return tuple(float(item) for item in items)
    except Exception:  # the object is the user's, and so is its __float__
        return ()


def describe(error: BaseException) -> str:
    """An error in one line: its type, what it says, and where in the user's code it arose."""
    if isinstance(error, SystemExit):
        return f"the task called sys.exit({'' if error.code is None else repr(error.code)})"
    try:
        text = " ".join(str(error).split())
    except Exception:  # the error is the user's, and so is its __str__
        text = ""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _sendable(value: Any) -> Any:
    try:
        pickle.dumps(value)
    except Exception:
        return None
    return value


def _without_hydra(config: DictConfig) -> DictConfig:
    # Hydra copies the whole and deletes `hydra` from it; that node is by far the largest, so it
    # steps aside instead.
    content = config.__dict__["_content"]
    hydra = content.pop("hydra")
    try:
        return copy.deepcopy(config)
    finally:
        content["hydra"] = hydra


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send this process's standard output and error, C libraries and children included, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class _Dumper(yaml.CDumper):
    """OmegaConf's YAML, written by libyaml.

    Strings that look like numbers to OmegaConf keep their quotes.
    """


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)  # type: ignore[arg-type] # same interface


def to_yaml(content: Any) -> str:
    """A config, or plain data with configs in it, as OmegaConf would write it: nothing resolved."""
    stream = io.StringIO()
    yaml.dump(
        _plain(content),
        stream,
        Dumper=_Dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    return stream.getvalue()


def _plain(content: Any) -> Any:
    if isinstance(content, Container):
        return OmegaConf.to_container(content, enum_to_str=True)
    return (
        {key: _plain(value) for key, value in content.items()}
        if isinstance(content, dict)
        else content
    )
