"""Distributed training that a trial starts itself: by torchrun, or by torch.multiprocessing."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hydra
import torch.distributed
import torch.multiprocessing
from omegaconf import DictConfig

import iolaus

N_RANKS = 2


def train(lr: float, n_steps: int, step_s: float, diary: str) -> None:
    """One rank's: the loss is the sum over ranks, and nothing is learned."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    folder = iolaus.get_checkpoint()
    first = 0 if folder is None else int((folder / "step").read_text()) + 1
    for step in range(first, n_steps):
        loss = torch.tensor(lr)
        torch.distributed.all_reduce(loss)
        if rank == 0:
            with Path(diary).open("a") as file:
                file.write(f"{lr} {step}\n")
        time.sleep(step_s)
        iolaus.report(step, loss=loss + rank)  # only rank 0's is taken
        if rank == 0 and step % 5 == 4:
            with tempfile.TemporaryDirectory(dir=".") as made:
                Path(made, "step").write_text(str(step))
                iolaus.report(step, checkpoint=made)
    torch.distributed.destroy_process_group()


def of_rank(rank: int, *given: object) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(N_RANKS), MASTER_ADDR="localhost", MASTER_PORT="29511"
    )
    train(*given)


@hydra.main(version_base=None, config_path=None)
def main(cfg: DictConfig) -> None:
    given = (cfg.lr, cfg.n_steps, cfg.step_s, cfg.diary)
    if cfg.how == "spawn":
        torch.multiprocessing.spawn(of_rank, given, nprocs=N_RANKS)
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [f"--nproc-per-node={N_RANKS}", __file__, "rank", *map(str, given)]
    subprocess.run([*torchrun, *script], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        lr, n_steps, step_s, diary = sys.argv[2:]
        train(float(lr), int(n_steps), float(step_s), diary)
    else:
        main()
