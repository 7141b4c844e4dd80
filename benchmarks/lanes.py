"""Lanes against everything else: steps a second of one model, and whole sweeps.

python benchmarks/lanes.py throughput [--rounds 3] [--only rnn]    # about 7 minutes on 2 cores
python benchmarks/lanes.py throughput --gpu [--only rnn]           # on one card
python benchmarks/lanes.py sweep [--seeds 3] [--ray PYTHON]        # about 5 minutes
python benchmarks/lanes.py sweep --trials 256 --steps 990 [--model rnn]

All sides run in every round, in random order. PYTHON: one that has ray[tune] and all that we need.
"""

import argparse
import os

# One BLAS thread for every process that does not ask for two. Before torch is loaded.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    throughput = commands.add_parser("throughput", help="trial-steps per second")
    throughput.add_argument("--rounds", type=int, default=3)
    throughput.add_argument(
        "--seconds", type=float, default=0.6, help="of each side in each round, or one report's"
    )
    throughput.add_argument("--only", nargs="*", help="models to measure; default: all")
    throughput.add_argument(
        "--gpu", action="store_true", help="on a CUDA device, against what one would do there"
    )
    throughput.add_argument(
        "--widths", nargs="*", type=int, default=[1, 8, 64, 512, 4096], help="lanes on a card"
    )
    throughput.add_argument(
        "--with", nargs="*", default=[], dest="overrides", help="for all sides: precision=bf16"
    )
    sweep = commands.add_parser("sweep", help="wall time of a sweep, 64 trials x 300 steps")
    sweep.add_argument("--seeds", type=int, default=3)
    sweep.add_argument("--trials", type=int, default=64)
    sweep.add_argument("--model", choices=["mlp", "rnn"], default="mlp")
    sweep.add_argument("--steps", type=int, default=300, help="of a trial; a multiple of 30")
    sweep.add_argument("--ray", help="interpreter with ray[tune]; without it Ray Tune is left out")
    sweep.add_argument(
        "--only", nargs="*", default=[""], help="contenders whose name contains one of these"
    )
    arguments = parser.parse_args()
    if arguments.command == "throughput":
        from lanes_throughput import WORKLOADS, compare

        names = arguments.only or list(WORKLOADS)
        if unknown := set(names) - set(WORKLOADS):
            raise SystemExit(
                f"lanes.py: no model {', '.join(unknown)}; there are {', '.join(WORKLOADS)}"
            )
        compare(
            names,
            arguments.rounds,
            arguments.seconds,
            on_gpu=arguments.gpu,
            gpu_widths=arguments.widths,
            overrides=arguments.overrides,
        )
    else:
        for name in ("trials", "steps", "model"):  # for all contenders' processes
            os.environ[f"LANES_{name.upper()}"] = str(getattr(arguments, name))
        from lanes_sweep import compare_sweeps

        compare_sweeps(arguments.seeds, arguments.ray, arguments.only)


if __name__ == "__main__":
    main()
