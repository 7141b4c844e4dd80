"""Trial-steps per second of lanes whose trials search the batch size: 16, 32 or 64, or all three.

python benchmarks/lanes_sizes.py [--only mlp rnn lstm] [--seeds 2] [--trials 48] [--steps 300]

A third of the trials is ended after a fifteenth of the steps, a sixth after a fifth, a sixth after
three fifths, as a pruner would. CPU time of one process with one thread; tracing is in.
"""

import argparse
import random
import time
from unittest.mock import patch

import torch
import torch._dynamo  # (its second is not the first side's)
from hydra import compose, initialize_config_dir
from lanes_throughput import WORKLOADS

from iolaus.trainer.course import Hooks, Summary
from iolaus.trainer.lanes import _sizes
from iolaus.trainer.lanes._stepper import Stepper
from iolaus.trainer.lanes.serve import Lanes
from iolaus.trainer.settings import CONF, Settings, read

SIZES = (16, 32, 64)
LENGTHS = (1 / 15, 1 / 15, 1 / 5, 3 / 5, 1, 1)  # of a whole trial
FIXED = ("report_every=10", "eval_every=1000000", "clip=norm", "optim.lr=1e-4")


def trials(
    model: str, sizes: tuple[int, ...], n_trials: int, n_steps: int, seed: int
) -> list[Settings]:
    """Trials of these batch sizes at random."""
    rng = random.Random(seed)
    with initialize_config_dir(str(CONF), version_base=None):
        return [
            read(
                compose(
                    "config",
                    [
                        *(
                            *WORKLOADS[model],
                            *FIXED,
                            f"seed={i}",
                            f"batch_size={rng.choice(sizes)}",
                        ),
                        f"steps={max(10, round(n_steps * rng.choice(LENGTHS)))}",
                    ],
                )
            )
            for i in range(n_trials)
        ]


def steps_per_s(runs: list[Settings], n_lanes: int) -> tuple[float, int]:
    """Trial-steps per second of CPU time of trials that refill n_lanes, and how many traces."""
    lanes, waiting, ended = Lanes(), list(runs), []
    traced: list[int] = []
    trace = Stepper._traced

    def counted(self: Stepper, arguments: tuple[torch.Tensor, ...]) -> object:
        traced.append(len(arguments[0]))
        return trace(self, arguments)

    def over(outcome: Summary | BaseException) -> None:
        assert isinstance(outcome, Summary), outcome
        ended.append(outcome)

    began = time.process_time()
    with patch.object(Stepper, "_traced", counted):
        while waiting or lanes.n_lane_runs:
            while waiting and lanes.n_lane_runs < n_lanes:
                lanes.admit(waiting.pop(0), Hooks(), None, over)
            lanes.run_block()
    return sum(one.n_steps for one in ended) / (time.process_time() - began), len(traced)


def main() -> None:
    """Print a line for each side and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["mlp", "rnn", "lstm"], choices=WORKLOADS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lanes", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)

    print("| model, seed | batch sizes | trial-steps/s | traces |\n| --- | --- | --- | --- |")
    for model in given.only:
        for seed in range(given.seeds):
            for sizes in (*((size,) for size in SIZES), SIZES):
                runs = trials(model, sizes, given.trials, given.steps, seed)
                label = ", ".join(map(str, sizes))
                if sizes == SIZES:
                    with patch.object(_sizes, "STEP_COSTS_EXAMPLES", {}):
                        rate, n_traces = steps_per_s(runs, given.lanes)
                    print(f"| {model}, {seed} | {label}, a stack each | {rate:,.0f} | {n_traces} |")
                rate, n_traces = steps_per_s(runs, given.lanes)
                print(f"| {model}, {seed} | {label} | {rate:,.0f} | {n_traces} |", flush=True)


if __name__ == "__main__":
    main()
