"""What a trial of nothing costs the study, at the first and at the ten-thousandth.

`python benchmarks/many_trials.py [N]`: milliseconds of ask and tell per trial, by thousands, with
SQLite written behind, and the most memory. No worker runs: this is the driver's part alone.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser

from iolaus.sweeps.metric import Metric
from iolaus.sweeps.search.parsing import parse_space
from iolaus.sweeps.study.backend import open_backend, sqlite_url
from iolaus.sweeps.study.live_storage import LiveStorage
from iolaus.sweeps.study.opening import open_study
from iolaus.sweeps.study.record import Run
from iolaus.sweeps.study.sweep_study import Plans, SweepStudy
from iolaus.sweeps.types import Ending, Outcome

N = 1000


def main(n_trials: int) -> None:
    parse = OverridesParser.create().parse_overrides
    space = parse_space({}, ["x=interval(0.0, 1.0)"], parse, lambda _: False)
    with tempfile.TemporaryDirectory() as folder:
        storage = LiveStorage(open_backend(sqlite_url(Path(folder, "study.db"))), refresh_s=1.0)
        sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
        opened = open_study(storage, "s", ["minimize"], sampler, pruner, space)
        study = SweepStudy(opened, storage, space, Plans(n_trials), Metric("loss"), None)
        for first in range(0, n_trials, N):
            began_s = time.process_time()
            for _ in range(N):
                proposal = study.ask()
                assert proposal is not None
                outcome = Outcome(Ending.COMPLETED, values=(proposal.values["x"],))
                study.tell(proposal.trial, outcome, Run(str(proposal.trial), 0, 0, 0.0), log="")
            storage.flush()
            each_ms = 1000 * (time.process_time() - began_s) / N
            held_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            print(
                f"trials {first:>6} on: {each_ms:.1f} ms of CPU each, {held_mb:.0f} MB", flush=True
            )
        storage.close()


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main(int(sys.argv[1]) if sys.argv[1:] else 10_000)
