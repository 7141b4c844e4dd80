"""A task that runs alone or, by `run_lanes`, several trials in one process, a step of each in
turn.
"""

import math
import os
import signal
import time
from pathlib import Path

import hydra
import optuna
from hydra.core.config_store import ConfigStore

import iolaus
from iolaus.sweeps.run.lanes import LaneServer

CONFIG = {"x": 1.0, "n_steps": 6, "do": "train", "diary": None, "step_s": 0.0}


def loss(cfg, step: int) -> float:
    return math.nan if cfg.do == "diverge" and step > 2 else cfg.x / (step + 1)


@hydra.main(version_base=None, config_path=None, config_name="lanes")
def main(cfg) -> float:
    for step in range(cfg.n_steps):
        iolaus.report(step, loss=loss(cfg, step))
    return loss(cfg, cfg.n_steps - 1)


def run_lanes(lane_server: LaneServer) -> None:
    n_lanes = lane_server.n_lanes or 3
    lane_server.open(n_lanes)
    lane_server.say(f"{n_lanes} lanes")
    lanes = []
    while True:
        while (trial := lane_server.take(wait_s=0 if lanes else None)) is not None:
            if trial.config.do == "alone":
                lane_server.run_alone(trial)
            else:
                lanes.append([trial, 0])
        if lanes and lanes[0][0].config.diary:
            with Path(lanes[0][0].config.diary).open("a") as file:
                file.write(f"{os.getpid()} {' '.join(str(t.number) for t, _ in lanes)}\n")
        for lane in list(lanes):
            trial, step = lane
            trial.tell(f"step {step}")
            time.sleep(trial.config.step_s)
            if trial.config.do == "kill" and step == 3:
                once = Path(trial.config.diary).with_name("killed")
                if not once.exists() or trial.config.x > 1:
                    once.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if trial.config.do == "hang" and step == 3 and trial.config.x == 2:
                time.sleep(600)
            try:
                if trial.config.do == "raise" and step == 2:
                    raise ValueError("no step two")
                trial.reporter.report(step, {"loss": loss(trial.config, step)})
            except (optuna.TrialPruned, ValueError) as error:
                lane_server.finish(trial, error)
                lanes.remove(lane)
                continue
            lane[1] += 1
            if lane[1] == trial.config.n_steps:
                lane_server.finish(trial, loss(trial.config, step))
                lanes.remove(lane)
        lane_server.fill(3, 4)
        lane_server.flush()


if __name__ == "__main__":
    ConfigStore.instance().store(name="lanes", node=CONFIG)
    main()
