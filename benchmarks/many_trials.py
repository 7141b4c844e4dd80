"""What many trials cost the study: does it stay the same, and does the loop ever stand still.

`python benchmarks/many_trials.py [--trials 10000] [--reports 0] [--slots 16]`. By thousands of
trials: milliseconds of CPU per trial for asking and telling, all threads together, with SQLite
written behind, and the most memory. With reports also the longest single decision (an ask, a
report, a tell) by CPU time of the thread that decides, and that thread's time per report; the
pruner is StalledLoss, of which trials with high losses are stopped. No worker runs: this is the
driver's part alone.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.pruners import StalledLoss
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run
from iolaus.sweeps.study.sweep_study import Plans, Proposal, SweepStudy
from iolaus.sweeps.types import Ending, Outcome, Plan, Verdict

N = 1000


class Clock:
    """CPU time of this thread within calls: their sum, their number and the longest."""

    def __init__(self) -> None:
        self.total_s, self.n, self.longest_s = 0.0, 0, 0.0

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call gives."""
        began_s = time.thread_time()
        answer = call(*arguments)
        took_s = time.thread_time() - began_s
        self.total_s, self.n = self.total_s + took_s, self.n + 1
        self.longest_s = max(self.longest_s, took_s)
        return answer


def main(n_trials: int, n_reports: int, n_slots: int) -> None:
    parse = OverridesParser.create().parse_overrides
    space = parse_space({}, ["x=interval(0.0, 1.0)"], parse, lambda _: False)
    with tempfile.TemporaryDirectory() as folder:
        storage = LiveStorage(open_backend(sqlite_url(Path(folder, "study.db"))), refresh_s=1.0)
        sampler = optuna.samplers.RandomSampler(seed=0)
        pruner = StalledLoss() if n_reports else optuna.pruners.NopPruner()
        opened = open_study(storage, "s", ["minimize"], sampler, pruner, space)
        study = SweepStudy(opened, storage, space, Plans(n_trials), Metric("loss"), None)
        for first in range(0, n_trials, N):
            began_s, asks, reports, tells = time.process_time(), Clock(), Clock(), Clock()
            for _ in range(N // n_slots):
                proposals = [asks(study.ask) for _ in range(n_slots)]
                stopped = report(study, proposals, n_reports, reports) if n_reports else {}
                for one in proposals:
                    verdict = stopped.get(one.trial)
                    ending = Ending.COMPLETED if verdict is None else Ending.PRUNED
                    outcome = Outcome(ending, (one.values["x"],), verdict=verdict)
                    run = Run(str(one.trial), 0, 0, 0.0)
                    tells(lambda o=outcome, n=one.trial, r=run: study.tell(n, o, r, log=""))
            storage.flush()
            each_ms = 1000 * (time.process_time() - began_s) / N
            held_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            line = f"trials {first:>6} on: {each_ms:.1f} ms of CPU each, {held_mb:.0f} MB"
            if n_reports:
                longest = [f"{1000 * clock.longest_s:.1f}" for clock in (asks, reports, tells)]
                each_us = 1e6 * reports.total_s / max(reports.n, 1)
                line += f"; longest ask, report, tell: {', '.join(longest)} ms; "
                line += f"{each_us:.0f} us a report, {reports.n} of them"
            print(line, flush=True)
        storage.close()


def report(
    study: SweepStudy, proposals: list[Proposal], n_reports: int, clock: Clock
) -> dict[int, Verdict]:
    """Report falling losses of all in turn; returns those that were stopped, and why."""
    stopped: dict[int, Verdict] = {}
    for one in proposals:
        study.plan(one.trial, Plan(n_reports))
    for step in range(n_reports):
        for one in proposals:
            if one.trial in stopped:
                continue
            loss = float(one.values["x"]) + math.exp(-5 * step / n_reports)  # type: ignore[arg-type]
            answer = clock(study.report, one.trial, step, loss)
            if isinstance(answer, Verdict):
                stopped[one.trial] = answer
    return stopped


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("trials", 10_000), ("reports", 0), ("slots", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    main(asked.trials, asked.reports, asked.slots)
