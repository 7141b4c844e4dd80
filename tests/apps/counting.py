"""A task whose state is a few numbers, saved as JSON every `every` steps, and when it is asked to.

It writes a line to its diary for each step that it really takes. STEP_S in the environment goes
before `step_s`: the same settings, slower.
"""

import json
import os
import random
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

import iolaus

CONFIG = {"x": 1.0, "n_steps": 40, "every": 10, "step_s": 0.01, "diary": None, "saves": True}


def next_state(state: dict) -> dict:
    """A random walk; what comes depends on all that was before."""
    chance = random.Random(f"{state['step']} {state['total']}")
    return {"step": state["step"] + 1, "total": state["total"] + chance.random()}


def walk(x: float, n_steps: int) -> list[float]:
    """The losses of an undisturbed run."""
    state, losses = {"step": 0, "total": x}, []
    for _ in range(n_steps):
        state = next_state(state)
        losses.append(state["total"])
    return losses


@hydra.main(version_base=None, config_path=None, config_name="counting")
def main(cfg) -> float:
    folder = iolaus.get_checkpoint() if cfg.saves else None
    state = {"step": 0, "total": cfg.x}
    if folder is not None:
        state = json.loads((folder / "state.json").read_text())
    own = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir, "to_save")
    step_s = float(os.environ.get("STEP_S", cfg.step_s))
    while state["step"] < cfg.n_steps:
        time.sleep(step_s)
        state = next_state(state)
        with Path(cfg.diary).open("a") as file:
            file.write(f"{hydra.core.hydra_config.HydraConfig.get().job.num} {state['step']}\n")
        checkpoint = None
        if cfg.saves and (state["step"] % cfg.every == 0 or iolaus.should_checkpoint()):
            own.mkdir(exist_ok=True)
            (own / "state.json").write_text(json.dumps(state))
            checkpoint = own
        iolaus.report(state["step"], loss=state["total"], checkpoint=checkpoint)
    return state["total"]


if __name__ == "__main__":
    ConfigStore.instance().store("counting", CONFIG)
    main()
