"""optuna-dashboard on a sweep, with its review laid over the study.

`iolaus dashboard DIR`. The study itself is not changed, so watching costs a running sweep
nothing: attributes, notes and pictures are made here when they are looked at, and made again when
the sweep has gone on.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from matplotlib.figure import Figure
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import wsgi

from iolaus.analysis.data.sweep import load
from iolaus.analysis.figures import draw_curves, draw_trial
from iolaus.analysis.report.notes import Review, note_attributes, review
from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.study.folder import read_study
from iolaus.sweeps.study.ranking import order, runs_of

__all__ = ["DashboardApp", "ReviewedStorage", "serve"]

log = logging.getLogger(__name__)

# Its API has no password: this machine only.
HOST = "127.0.0.1"
# A running sweep is reviewed again after this, and never for more than a tenth of the time.
PAUSE_S = 10.0
# What `iolaus.sweeps.study.record` keeps that is not short, or that the note says in words.
HIDDEN = (
    "driver", "n_steps", "lr_plan", "ending", "why", "run", "log", "findings", "repeat",
    "repeat_of", "paused", "pauses", "verdict", "verdict_rule", "verdict_step", "verdict_numbers",
)  # fmt: skip
METRIC_NAMES = "study:metric_names"  # where Optuna's Study.set_metric_names keeps them
ARTIFACTS = "artifacts:"  # Optuna's prefix of what it knows of an artifact
N_PICTURES_KEPT = 100


def serve(folder: Path, port: int) -> None:
    """Serve the dashboard of a sweep's folder until interrupted.

    port: 0 for any that is free. Raises what DashboardApp does, and BadInputError if the port is
    taken.
    """
    app = DashboardApp(folder)
    try:
        server = make_server(HOST, port, app, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise BadInputError(
            f"port {port} cannot be used: {error.strerror}; choose another with --port"
        ) from error
    with server:
        print(
            f"dashboard: http://{HOST}:{server.server_port}{app.home} (Ctrl-C ends it)",
            flush=True,
        )
        threading.Thread(target=app.keep_current, name="review", daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class DashboardApp:
    """The web application (WSGI): optuna-dashboard on the study as it was last reviewed.

    Raises FileNotFoundError if the folder is no sweep, or has lost its study.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        study = read_study(folder)
        self._backend, self._study_id = compat.storage_of(study), compat.study_id(study)
        self.home = f"/dashboard/studies/{self._study_id}"
        self._seen: object = None
        self.refresh()

    def refresh(self) -> None:
        """Review the sweep again if it has gone on."""
        trials = self._backend.get_all_trials(self._study_id, deepcopy=False)
        curves = sorted(path.name for path in (self._folder / "curves").glob("*.parquet"))
        seen = [(trial.state, trial.last_step) for trial in trials], curves
        if self._seen == seen:
            return
        made = review(load(self._folder), self._study_id)
        self._seen = seen
        # A new application, for its caches of trials and of names of attributes.
        storage: Any = ReviewedStorage(self._backend, self._study_id, made)
        self._app = wsgi(storage, Pictures(made, self._folder / "artifacts"))

    def keep_current(self, wait: Callable[[float], Any] = time.sleep) -> None:
        """Review the sweep again and again, as often as costs little. wait: takes seconds."""
        pause_s = PAUSE_S
        while True:
            wait(pause_s)
            started_s = time.monotonic()
            try:
                self.refresh()
            except Exception:
                log.exception("the sweep could not be reviewed; what is shown is older")
            pause_s = max(PAUSE_S, 9 * (time.monotonic() - started_s))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """See PEP 3333; the root leads to the study's page."""
        if environ["PATH_INFO"] in ("", "/"):
            start_response("302 Found", [("Location", self.home)])
            return []
        return self._app(environ, start_response)  # type: ignore[no-any-return]


@BaseStorage.register  # the dashboard asks whether it is one
class ReviewedStorage:
    """An Optuna storage whose one study shows its review.

    All else, and all that is written, is the backend's.
    """

    def __init__(self, backend: BaseStorage, study_id: int, made: Review) -> None:
        self._backend = backend
        self._study_id = study_id
        self._review = made
        self._finished: dict[int, FrozenTrial] = {}  # as shown, by number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See optuna.storages.BaseStorage."""
        trials = self._backend.get_all_trials(study_id, deepcopy, states)
        return [self._shown(trial) for trial in trials] if study_id == self._study_id else trials

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        number = trial.number
        if number in self._finished:
            return self._finished[number]
        # Optuna has no state for it; what the review says of it has the word.
        shown = compat.as_pruned(trial, 1) if compat.is_paused(trial) else copy.copy(trial)
        own = {name: value for name, value in trial.user_attrs.items() if name not in HIDDEN}
        shown.user_attrs = {**self._review.attributes.get(number, {}), **own}
        shown.system_attrs = {**trial.system_attrs, **self._of_trial(trial)}
        if trial.state.is_finished():
            self._finished[number] = shown
        return shown

    def _of_trial(self, trial: FrozenTrial) -> dict[str, Any]:
        # The dashboard knows Optuna's older form of constraints only, a list.
        old_form = {"constraints": list(trial.constraints.values())} if trial.constraints else {}
        return old_form | (_artifact(trial.number) if trial.number in self._review.notes else {})

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """See optuna.storages.BaseStorage."""
        trial = self._backend.get_trial(trial_id)
        return {**trial.system_attrs, **self._of_trial(trial)}

    def get_all_studies(self) -> list[Any]:
        """See optuna.storages.BaseStorage."""
        studies = self._backend.get_all_studies()
        for study in studies:
            if compat.study_id(study) == self._study_id:
                study.system_attrs = self._with_notes(study.system_attrs)
                study.user_attrs = {}  # the whole config, the space and provenance: pages of JSON
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See optuna.storages.BaseStorage."""
        stored = self._backend.get_study_system_attrs(study_id)
        return self._with_notes(stored) if study_id == self._study_id else stored

    def _with_notes(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        made, home = self._review, f"/artifacts/{self._study_id}"
        shown = dict(stored) | _artifact(None)
        if made.objective:
            shown.setdefault(METRIC_NAMES, [made.objective])
        picture = f"![all curves]({home}/{_artifact_id(None)})"
        shown |= note_attributes(f"{made.about}\n\n{picture}", None, stored, record=False)
        for trial in self._backend.get_all_trials(self._study_id, deepcopy=False):
            if trial.number in made.notes:
                name = f"trial {trial.number}: curve and learning rate"
                picture = f"![{name}]({home}/{compat.trial_id(trial)}/{_artifact_id(trial.number)})"
                body = f"{made.notes[trial.number]}\n\n{picture}"
                shown |= note_attributes(body, compat.trial_id(trial), stored, record=False)
        return shown

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The first of the ranking; see optuna.storages.BaseStorage.

        Settings with several seeds count by the mean of all, and of them it is the first completed
        run. One that breaks a constraint is first only if all do.
        """
        best = self._backend.get_best_trial(study_id)  # raises if there is none
        trials = self._backend.get_all_trials(study_id, deepcopy=False)
        directions = [d.name.lower() for d in self._backend.get_study_directions(study_id)]
        first = order(runs_of(trials), directions)[0]
        completed = (run.number for run in first.runs if run.state == "complete")
        number = next(completed, best.number)
        return next(t for t in self.get_all_trials(study_id, deepcopy=False) if t.number == number)

    def create_new_study(self, *_: Any, **__: Any) -> int:
        """Refused: a study is renamed by copying it, and the folder would no longer find it."""
        raise StorageInternalError(
            "the study of a sweep keeps its name: the sweep's folder finds it by that"
        )


def _artifact_id(number: int | None) -> str:
    """Of a trial's picture, or of the study's (None): always the same, so that links to it stay."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"iolaus picture {number}"))


def _artifact(number: int | None) -> dict[str, str]:
    """What Optuna's upload_artifact records, of a picture that is drawn when asked for."""
    name = "curves.png" if number is None else f"trial-{number}.png"
    artifact = {
        "artifact_id": _artifact_id(number),
        "filename": name,
        "mimetype": "image/png",
        "encoding": None,
    }
    return {ARTIFACTS + artifact["artifact_id"]: json.dumps(artifact)}  # type: ignore[operator]


class Pictures:
    """An Optuna artifact store that draws the sweep's own pictures.

    Files that people upload go to a folder.
    """

    def __init__(self, made: Review, folder: Path) -> None:
        self._review = made
        self._folder = folder
        self._numbers: dict[str, int | None] = {_artifact_id(n): n for n in (None, *made.notes)}
        self._draw = lru_cache(N_PICTURES_KEPT)(self._drawn)
        self._lock = threading.Lock()  # matplotlib draws one at a time

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """See optuna.artifacts."""
        if artifact_id not in self._numbers:
            return self._files().open_reader(artifact_id)
        with self._lock:
            return io.BytesIO(self._draw(self._numbers[artifact_id]))

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """See optuna.artifacts."""
        self._files().write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """See optuna.artifacts. A picture that is drawn when asked for cannot be removed."""
        if artifact_id not in self._numbers:
            self._files().remove(artifact_id)

    def _files(self) -> FileSystemArtifactStore:
        self._folder.mkdir(exist_ok=True)
        return FileSystemArtifactStore(self._folder)

    def _drawn(self, number: int | None) -> bytes:
        figure = Figure(figsize=(8, 5), layout="constrained", dpi=100)
        if number is None:
            above, below = figure.subplots(2, 1, height_ratios=[4, 1])
            made = self._review
            draw_curves(
                above, made.sweep, diagnosis=made.diagnosis, ranking=made.ranking, rate_ax=below
            )
        else:
            draw_trial(figure, self._review.sweep, number, self._review.diagnosis)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return png.getvalue()


class _Server(ThreadingMixIn, WSGIServer):
    """Browsers open connections ahead of need, which would hold up a server of one thread."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Requests are not worth a line."""
