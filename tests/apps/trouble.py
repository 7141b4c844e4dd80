"""A task that does what it is told, so that each way a trial can end, and each wish about its job,
can be tested.
"""

import os
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

import iolaus

CONFIG = {"do": "return", "x": 1.0, "pause_s": 0.0, "n_steps": 5, "step_s": 0.0, "diary": None}


class Diary(Callback):
    """Hydra callbacks that leave a line each in the job's folder."""

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        Path(config.hydra.runtime.output_dir, "callbacks").write_text("start\n")

    def on_job_end(self, config: DictConfig, job_return: object, **_: object) -> None:
        with Path(config.hydra.runtime.output_dir, "callbacks").open("a") as file:
            file.write("end\n")


@hydra.main(version_base=None, config_path=None, config_name="trouble")
def main(cfg: DictConfig) -> object:
    if cfg.diary:  # who ran, and when, from the task's own mouth
        with Path(cfg.diary).open("a") as file:
            file.write(f"{HydraConfig.get().job.num} {os.getpid()} {cfg.x}\n")
    print("printed by", cfg.x)
    time.sleep(cfg.pause_s)
    match cfg.do:
        case "return":
            return cfg.x
        case "report":  # best 1 x, then up to 2 x
            for step in range(cfg.n_steps):
                time.sleep(cfg.step_s)
                iolaus.report(step, loss=cfg.x * [3, 1, 2][min(step, 2)])
        case "report and return":
            iolaus.report(0, loss=1.0)
            return cfg.x
        case "report other":
            iolaus.report(0, accuracy=0.5)
        case "nothing":
            return None
        case "diverge":
            for step in range(cfg.n_steps):
                Path(HydraConfig.get().runtime.output_dir, "last_step").write_text(str(step))
                iolaus.report(step, loss=1.0 if step < 3 else float("nan"))
        case "raise":
            raise ValueError("told to\nfail")
        case "exit":
            sys.exit("told to leave")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "os exit":
            os._exit(7)
        case "fork":  # a child that outlives everybody; its number is in the job's folder
            if (child := os.fork()) == 0:
                os.setsid()
                time.sleep(60)
                os._exit(0)
            Path(HydraConfig.get().runtime.output_dir, "child").write_text(str(child))
            time.sleep(cfg.step_s)
            return cfg.x
        case "describe job":
            import slow_to_import  # noqa: F401 (its line in $IMPORTS says that it was imported)

            Path("here").write_text(f"{os.environ['GREETING']} {HydraConfig.get().job.num}")
            return cfg.x
    return None


if __name__ == "__main__":
    ConfigStore.instance().store("trouble", CONFIG)
    main()
