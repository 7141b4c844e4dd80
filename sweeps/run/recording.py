"""A run outside a sweep, recorded as a sweep of one trial, which everything reads that reads those.

In a Hydra app by a line in its config, `hydra.callbacks.record._target_: iolaus.Recorder`;
elsewhere by `with iolaus.record(...)`.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

from iolaus.sweeps.errors import StorageError
from iolaus.sweeps.reporting import Reporter, in_trial, reporting_to
from iolaus.sweeps.study._watched import WatchedCurve
from iolaus.sweeps.types import Ending, Outcome, Plan, Verdict

if TYPE_CHECKING:
    import optuna
    from omegaconf import DictConfig

    from iolaus.sweeps.curves import CurveWriter
    from iolaus.sweeps.metric import Metric

__all__ = ["Recorder", "record"]

log = logging.getLogger("sweeps")

STUDY_NAME = "run"


@contextmanager
def record(
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    metric: str = "loss",
    seed: int | None = None,
) -> Iterator[RunRecord]:
    """Record what is reported within, in a folder that reads like that of a sweep of one trial.

    settings: of the run, by key as a sweep would call them; numbers, texts, booleans or None.
    metric: what is watched; its name says which way it is better. Its last value is the objective,
    unless `result` of what is given says another. A second run in the same folder is a second
    trial; one that was cut off is the same, and goes on. Within a trial of a sweep, nothing is
    recorded beside what the sweep does. Nothing here ends the run, NaN neither.

    >>> with iolaus.record("runs/a", {"lr": 0.1}):
    ...     for step in range(100):
    ...         iolaus.report(step, loss=1 / (step + 1))
    >>> len(iolaus.load("runs/a").trials)
    1
    """
    about = RunRecord(Path(folder), metric, dict(settings or {}), seed)
    if in_trial():
        yield about
        return
    with about.recording():
        yield about


class Recorder:
    """The same as a callback of Hydra, for runs without --multirun: in the run's output folder.

    Its settings are the overrides of its command line; what the app returns is the objective, if it
    is a number. metric: what is watched. seed_key: of the app's config.

        >>> from hydra.utils import instantiate
        >>> from omegaconf import OmegaConf
        >>> line = "hydra: {callbacks: {record: {_target_: iolaus.Recorder, metric: val_loss}}}"
        >>> type(instantiate(OmegaConf.create(line).hydra.callbacks.record)).__name__
        'Recorder'
    """

    # Of a sweep's trials it reads nothing, so that they may share what they have in common.
    keeps_configs = False

    def __init__(self, metric: str = "loss", seed_key: str = "seed") -> None:
        self._metric, self._seed_key = metric, seed_key
        self._about: RunRecord | None = None
        self._recording: AbstractContextManager[None] | None = None

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """See hydra.experimental.callback.Callback."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from iolaus.sweeps.search.fixed import settings_as_text

        hydra = HydraConfig.get()
        if hydra.mode is not RunMode.RUN or in_trial():
            return
        folder = Path(hydra.runtime.output_dir)
        given = [word.lstrip("+~").partition("=")[0] for word in hydra.overrides.task]
        seed = OmegaConf.select(config, self._seed_key)
        settings = {
            key: value
            for key in given
            if key != self._seed_key
            and not isinstance(value := _given(config, hydra, key), Mapping | list)
        }
        texts = settings_as_text(config, {"SWEEP": folder, "": Path(hydra.runtime.cwd)})
        self._about = RunRecord(
            *(folder, self._metric, settings, seed if type(seed) is int else None),
            fixed={key: text for key, text in texts.items() if key not in settings},
            config=OmegaConf.to_yaml(config),
            cwd=Path(hydra.runtime.cwd),
        )
        self._recording = self._about.recording()
        self._recording.__enter__()

    def on_job_end(self, job_return: Any, **_: Any) -> None:
        """See hydra.experimental.callback.Callback."""
        if self._recording is None or self._about is None:
            return
        from iolaus.sweeps.hydra_compat import returned_by

        returned = returned_by(job_return)
        recording, self._recording = self._recording, None
        if isinstance(returned, BaseException):
            with suppress(type(returned)):
                recording.__exit__(type(returned), returned, returned.__traceback__)
            return
        if isinstance(returned, int | float):
            self._about.result = float(returned)
        recording.__exit__(None, None, None)

    def __getattr__(self, name: str) -> Any:
        """The other callbacks, which do nothing."""
        if name.startswith("on_"):
            return lambda **_: None
        raise AttributeError(name)


def _given(config: DictConfig, hydra: Any, key: str) -> Any:
    """The value of an override: of a config group its choice."""
    from omegaconf import OmegaConf

    group = key.partition("@")[0]
    return hydra.runtime.choices.get(group, OmegaConf.select(config, key, throw_on_missing=False))


@dataclass
class RunRecord:
    """What is recorded of a run, see `record`. result: the objective, None for the last value."""

    folder: Path
    metric: str
    settings: Mapping[str, Any]
    seed: int | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    config: str = "{}"
    cwd: Path = field(default_factory=Path.cwd)
    result: float | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within, reports are taken; what cannot be written costs a line, not the run."""
        from iolaus.sweeps.curves import CurveWriter
        from iolaus.sweeps.metric import choose_metric
        from iolaus.sweeps.study.folder import CURVES_FOLDER

        metric, _ = choose_metric(self.metric, None, ["minimize"], None)
        study, trial, attempt = self._begun(metric)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-run-{trial}-{attempt}"
        writer = CurveWriter(self.folder / CURVES_FOLDER, name, time.monotonic)
        reporter = _Reporter(metric, writer, trial, attempt)
        outcome = Outcome(Ending.COMPLETED)
        try:
            with reporting_to(reporter):
                yield
        except Exception as error:
            outcome = Outcome(Ending.FAILED, reason=f"{type(error).__name__}: {error}")
            raise
        except BaseException:  # it was ended from outside, and may go on
            outcome = Outcome(Ending.INTERRUPTED)
            raise
        finally:
            reporter.close()
            if outcome.ending is not Ending.INTERRUPTED:
                try:
                    self._end(study, trial, reporter, outcome)
                except Exception as error:  # a locked or damaged file, a full disk: the run is over
                    log.warning("%s: the run's end is not recorded: %s", self.folder, error)

    def _begun(self, metric: Metric) -> tuple[optuna.Study, int, int]:
        """(study, number of the trial, how often it was begun before)."""
        import optuna
        from omegaconf import OmegaConf
        from optuna.trial import TrialState

        from iolaus.sweeps.metric import METRIC_ATTR
        from iolaus.sweeps.run import _provenance as provenance
        from iolaus.sweeps.study.backend import open_backend, sqlite_url
        from iolaus.sweeps.study.fingerprint import note_fingerprint
        from iolaus.sweeps.study.folder import STUDY_FILE, SWEEP_FILE
        from iolaus.sweeps.study.record import Run, TrialRecord, record_of

        self.folder.mkdir(parents=True, exist_ok=True)
        fingerprint = provenance.fingerprint(self.fixed, sys.modules)
        here = provenance.collect(sys.orig_argv, self.cwd, (), datetime.now(UTC))
        here |= {"fingerprint": fingerprint.id, "alone": True}
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=open_backend(sqlite_url(self.folder.absolute() / STUDY_FILE)),
            study_name=STUDY_NAME,
            direction=metric.goal,
            load_if_exists=True,
        )
        optuna.logging.set_verbosity(before)
        sessions = [*study.user_attrs.get("provenance", []), here]
        note_fingerprint(study, fingerprint)
        kept = {"provenance": sessions, "config": self.config, METRIC_ATTR: asdict(metric)}
        for key, value in kept.items():
            study.set_user_attr(key, value)
        about: dict[str, Any] = {
            "study_name": STUDY_NAME,
            "storage": None,
            "directions": [metric.goal],
            "metric": metric.name,
            "metric_goal": metric.goal,
            "objective": "return",
            "n_trials": 1,
            "sweeper": {},
            "sessions": sessions,
        }
        OmegaConf.save(OmegaConf.create(about), self.folder / SWEEP_FILE)
        trials = study.get_trials(deepcopy=False)
        settings = {key: str(value) for key, value in self.settings.items()}
        open_ones = [
            t for t in trials if not t.state.is_finished() and record_of(t).settings == settings
        ]
        if open_ones:
            interrupted = (*record_of(open_ones[-1]).interruptions, "cut off")
            number = open_ones[-1].number
            self._note(study, number, TrialRecord(interruptions=interrupted))
            return study, number, len(interrupted)
        run = Run(".", 0, len(sessions) - 1)
        own = TrialRecord(seed=self.seed, settings=settings, run=run).to_attrs()
        trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=own)
        study.add_trial(trial)
        return study, len(trials), 0

    def _note(self, study: optuna.Study, number: int, record: Any) -> None:
        from iolaus.sweeps import optuna_compat as compat

        trial = study.get_trials(deepcopy=False)[number]
        for name, value in record.to_attrs().items():
            compat.set_user_attr(study, trial, name, value)

    def _end(self, study: optuna.Study, number: int, said: _Reporter, outcome: Outcome) -> None:
        import math

        from optuna.trial import TrialState

        from iolaus.sweeps.study.record import Run, TrialRecord, why

        curve = said.watched
        result = curve.final if self.result is None else self.result
        if outcome.ending is Ending.COMPLETED and math.isnan(result):
            reason = f"it reported no finite {self.metric} at its end, and returned no number"
            outcome = Outcome(
                Ending.DIVERGED if curve.final_step >= 0 else Ending.FAILED, reason=reason
            )
        is_known = math.isfinite(curve.best)
        about = Run(
            *(".", 0, len(study.user_attrs["provenance"]) - 1, round(said.seconds, 3)),
            best=curve.best if is_known else None,
            best_step=curve.best_step if is_known else None,
            final=curve.final if math.isfinite(curve.final) else None,
        )
        steps = curve.final_step if curve.final_step >= 0 else None
        own = TrialRecord(
            ending=outcome.ending, why=why(outcome), steps=steps, run=about, plan=said.known_plan
        )
        self._note(study, number, own)
        states = {Ending.COMPLETED: TrialState.COMPLETE, Ending.DIVERGED: TrialState.PRUNED}
        state = states.get(outcome.ending, TrialState.FAIL)
        study.tell(number, result if state is TrialState.COMPLETE else None, state)


class _Reporter(Reporter):
    """Writes what is reported to the run's own curves; nothing ends the run."""

    def __init__(self, metric: Metric, writer: CurveWriter, trial: int, attempt: int) -> None:
        super().__init__(metric.name, time.monotonic)
        self._metric, self._writer, self._place = metric, writer, (trial, attempt)
        self._writing = threading.Lock()
        self._began_s = time.monotonic()
        self.watched = WatchedCurve(metric)
        self.known_plan = Plan()
        self.seconds = 0.0
        atexit.register(self.close)  # a signal ends a run without another word

    def stop(self, verdict: Verdict, is_pause: bool = False) -> None:
        """Nobody ends it."""

    def report(
        self,
        step: SupportsIndex,
        metrics: Mapping[str, SupportsFloat],
        checkpoint: str | Path | None = None,
    ) -> None:
        """See Reporter; checkpoints are the run's own affair."""
        del checkpoint
        if metrics:
            super().report(step, metrics)
            self._write()

    def _write(self) -> None:
        trial, attempt = self._place
        with self._writing:
            batch = self.take()
            if batch is None:
                return
            self.known_plan = batch.plan or self.known_plan
            for row in batch.rows:
                if self._metric.name in row.metrics:
                    self.watched.add(row.step, row.metrics[self._metric.name])
            self._writer.add(trial, batch.rows, attempt)
            try:
                self._writer.flush_if_due()
            except StorageError as error:
                log.warning("not recorded, the run goes on: %s", error)

    def close(self) -> None:
        """Write the rest; once."""
        atexit.unregister(self.close)
        self._write()
        self.seconds = time.monotonic() - self._began_s
        try:
            self._writer.close()
        except StorageError as error:
            log.warning("the curve's end is not recorded: %s", error)
