"""Where one driver's part breaks: its scheduler, study and database, with no worker run.

`python benchmarks/scale.py scheduler [N_WORKERS N_TRIALS]`: the scheduler alone, on a virtual
clock, with workers that die. `study [KNOWN,RUNNING ...]`: what ask, report and tell take where so
many trials are known and run, and the memory, with a database that takes no time. `tpe [KNOWN
...]`: what TPE takes. `database [URL ...]`: statements per trial, and how many a second SQLite (or
those databases) take.
"""

from __future__ import annotations

import heapq
import itertools
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import optuna
import sqlalchemy
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from iolaus.sweeps import optuna_compat as compat
from iolaus.sweeps.metric import Metric
from iolaus.sweeps.run import scheduler as s
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.search.space import Space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.leases import Leases, new_driver_name
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run, TrialRecord
from iolaus.sweeps.study.sweep_study import Plans, Proposal, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Verdict

N_WORKERS = 1000
TRIAL_S = 600.0  # drawn around it
DEATHS = 0.01  # of trials whose worker dies, and of those that a rule ends
N_MEASURED = 50
N_REPORTS = 10
# known, running
SIZES = ("0,10", "10000,10", "100000,10", "0,100", "0,1000", "100000,1000")


def held_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def scheduler(n_workers: int, n_trials: int) -> None:
    """All of a sweep's events, in the order of a virtual clock."""
    chance, now_s, number = random.Random(0), 0.0, 0
    sut = s.Scheduler(n_workers, n_trials)
    due: list[tuple[float, int, s.Event]] = []  # when, a number that breaks ties, what
    n_events, n_told, longest_s = 0, 0, 0.0

    def later(after_s: float, event: s.Event) -> None:
        heapq.heappush(due, (now_s + after_s, len(due) + n_events * 1000, event))

    began_s = time.perf_counter()
    actions = sut.start()
    while True:
        for action in actions:
            match action:
                case s.Spawn(slot):
                    later(chance.uniform(0.1, 1.0), s.Freed(slot))
                case s.Ask(slot):
                    later(0.0, s.Proposed(slot, number))
                    number += 1
                case s.Start(slot, trial):
                    seconds = chance.expovariate(1 / TRIAL_S)
                    if chance.random() < DEATHS:
                        later(seconds, s.Died(slot, "killed"))
                    else:
                        if chance.random() < DEATHS:
                            later(seconds / 2, s.Judged(trial, Verdict("rule", 1, "behind")))
                        later(seconds, s.Ended(trial, Outcome(Ending.COMPLETED, values=(0.0,))))
                case s.Tell():
                    n_told += 1
        if not due:
            break
        now_s, _, event = heapq.heappop(due)
        one_s = time.perf_counter()
        actions = sut.handle(event)
        longest_s = max(longest_s, time.perf_counter() - one_s)
        n_events += 1
    took_s = time.perf_counter() - began_s
    assert sut.done, "workers are left"
    print(
        f"{n_workers} workers, {n_told} trials told of {n_trials}, {now_s / 3600:.1f} hours of "
        f"their clock: {n_events} events in {took_s:.1f} s, {n_events / took_s:.0f} a second, "
        f"the longest {1000 * longest_s:.1f} ms, {held_mb():.0f} MB"
    )


def _space() -> Space:
    parse = OverridesParser.create().parse_overrides
    return parse_space({}, ["x=interval(0.0, 1.0)"], parse, lambda _: False)


def _study(
    backend: BaseStorage,
    n_trials: int,
    is_shared: bool,
    name: str = "s",
    sampler: BaseSampler | None = None,
) -> SweepStudy:
    driver = new_driver_name() if is_shared else ""
    storage = LiveStorage(backend, refresh_s=0.0 if is_shared else 1.0, driver=driver)
    parts = sampler or optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    opened = open_study(storage, name, ["minimize"], *parts, _space())
    leases = Leases(storage, compat.study_id(opened), 60.0, time.monotonic) if is_shared else None
    return SweepStudy(opened, storage, _space(), Plans(n_trials), Metric("loss"), leases)


def _known(n_trials: int) -> optuna.storages.InMemoryStorage:
    """A study that has so many completed trials."""
    backend = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=backend, study_name="s")
    study.set_user_attr("search_space", _space().signature())
    chance, study_id = random.Random(0), compat.study_id(study)
    attrs = TrialRecord(
        ending=Ending.COMPLETED, run=Run("0", 0, 0, 1.0), steps=N_REPORTS
    ).to_attrs()
    for _ in range(n_trials):
        x = chance.random()
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=x,
            params={"x": x},
            distributions={"x": FloatDistribution(0.0, 1.0)},
            user_attrs=attrs,
            intermediate_values=dict.fromkeys(range(N_REPORTS), x),
        )
        backend.create_new_trial(study_id, template_trial=trial)
    return backend


def study(*pairs: tuple[int, int]) -> None:
    """What one more trial costs, by how many are known, and how many of them run."""
    print("known | running | ask ms | report us | tell ms | trials a second | MB")
    for n_known, n_running in pairs:
        n_trials = n_known + n_running + N_MEASURED
        sut = _study(_known(n_known), n_trials, is_shared=False)
        began = [sut.ask() for _ in range(n_running)]
        asks_s, reports_s, tells_s = [], [], []
        for number in range(min(N_MEASURED, n_running)):
            proposal = began[number]
            assert proposal is not None
            for step in range(N_REPORTS):
                with _timed(reports_s):
                    sut.report(proposal.trial, step, 1.0 / (step + 1))
            with _timed(tells_s):
                _tell(sut, proposal)
            with _timed(asks_s):
                sut.ask()
        ask_s, report_s, tell_s = median(asks_s), median(reports_s), median(tells_s)
        rate = 1 / (ask_s + tell_s + N_REPORTS * report_s)
        print(
            f"{n_known} | {n_running} | {1000 * ask_s:.2f} | {1e6 * report_s:.1f} | "
            f"{1000 * tell_s:.2f} | {rate:.0f} | {held_mb():.0f}",
            flush=True,
        )


def tpe(*sizes: int) -> None:
    """What TPE, the sampler by default, takes beside, in one dimension."""
    print("known | ask ms")
    for size in sizes:
        sampler = optuna.samplers.TPESampler(seed=0)
        sut = _study(_known(size), size + N_MEASURED, is_shared=False, sampler=sampler)
        asks_s: list[float] = []
        for _ in range(5):
            with _timed(asks_s):
                sut.ask()
        print(f"{size} | {1000 * median(asks_s):.1f}", flush=True)


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    """Of the processor, of this thread: others wait for it too."""
    began_s = time.thread_time()
    yield
    seconds.append(time.thread_time() - began_s)


def _tell(sut: SweepStudy, proposal: Proposal) -> None:
    outcome = Outcome(Ending.COMPLETED, values=(proposal.values["x"],))
    sut.tell(proposal.trial, outcome, Run(str(proposal.trial), 0, 0, 1.0), log="")


def database(*urls: str) -> None:
    """Statements per trial, by how many values it reports, and how fast they are carried out."""
    n_statements = Counter[str]()

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
    def _count(*arguments: object) -> None:
        n_statements[str(arguments[2]).split()[0]] += 1

    print("database | drivers | reports | statements a trial | a second | trials a second")
    with tempfile.TemporaryDirectory() as folder:
        names = itertools.count()
        for url in urls or ("sqlite",):
            for is_shared, n_reports in itertools.product((False, True), (0, 10, 100)):
                own = sqlite_url(Path(folder, f"{next(names)}.db")) if url == "sqlite" else url
                backend = open_backend(own)
                sut = _study(backend, N_MEASURED, is_shared, name=f"s{next(names)}")
                n_statements.clear()
                began_s = time.perf_counter()
                for _ in range(N_MEASURED):
                    proposal = sut.ask()
                    assert proposal is not None
                    for step in range(n_reports):
                        sut.report(proposal.trial, step, 1.0 / (step + 1))
                    _tell(sut, proposal)
                compat.storage_of(sut.study).flush()
                took_s = time.perf_counter() - began_s
                n = n_statements.total()
                print(
                    f"{url.partition(':')[0]} | {'several' if is_shared else 'one'} | {n_reports} "
                    f"| {n / N_MEASURED:.1f} | {n / took_s:.0f} | {N_MEASURED / took_s:.1f}",
                    flush=True,
                )
                compat.storage_of(sut.study).close()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    what, *given = sys.argv[1:]
    match what:
        case "scheduler":
            scheduler(*(map(int, given) if given else (N_WORKERS, 100_000)))
        case "study":
            study(*(tuple(map(int, pair.split(","))) for pair in given or SIZES))
        case "tpe":
            tpe(*(map(int, given) if given else (100, 1000, 10_000, 100_000)))
        case "database":
            database(*given)
