"""A task like `counting.py` that takes it badly, the first time that it is to be paused."""

import json
import os
import shutil
import time
from pathlib import Path

import hydra
import optuna
from counting import next_state
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

import iolaus

CONFIG = {"x": 1.0, "n_steps": 60, "every": 7, "step_s": 0.05, "do": "good", "n_objectives": 1}


def asked(do: str, folder: Path) -> None:
    """It could save, and does this instead."""
    match do:
        case "hang":
            time.sleep(600)
        case "exit":
            os._exit(3)
        case "delete its folder":
            shutil.rmtree(folder)


def stopped(do: str, folder: Path, error: optuna.TrialPruned) -> None:
    """It has saved, is told to end, and does this instead."""
    match do:
        case "swallow":
            return
        case "raise":
            raise ValueError("not now")
        case "damage its checkpoint":
            for path in folder.glob("checkpoints/*/state"):
                path.write_text(path.read_text()[:-1])
        case "lose its checkpoint":
            shutil.rmtree(folder / "checkpoints")
    raise error


@hydra.main(version_base=None, config_path=None, config_name="stubborn")
def main(cfg) -> float | tuple[float, float]:
    was = iolaus.get_checkpoint()
    state = {"step": 0, "total": cfg.x} if was is None else json.loads((was / "state").read_text())
    folder = Path(HydraConfig.get().runtime.output_dir)
    once = Path(HydraConfig.get().sweep.dir) / f"{HydraConfig.get().job.num}.asked"
    while state["step"] < cfg.n_steps:
        time.sleep(cfg.step_s)
        state = next_state(state)
        checkpoint = None
        is_asked = iolaus.should_checkpoint()
        if is_asked and not once.exists():
            once.touch()
            asked(cfg.do, folder)
        if state["step"] % cfg.every == 0 or (is_asked and cfg.do != "never save"):
            checkpoint = folder / "to_save"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "state").write_text(json.dumps(state))
        try:
            iolaus.report(state["step"], loss=state["total"], checkpoint=checkpoint)
        except optuna.TrialPruned as error:
            stopped(cfg.do, folder, error)
    return state["total"] if cfg.n_objectives == 1 else (state["total"], cfg.x)


if __name__ == "__main__":
    ConfigStore.instance().store("stubborn", CONFIG)
    main()
