"""An app whose module starts threads, or what hangs in forks, before any worker is there.

THREADS in the environment says which; `task` is what runs in a trial.
"""

from __future__ import annotations

import atexit
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import iolaus

OF = os.environ["THREADS"]


def openmp() -> float:
    import torch

    return float(torch.ones(4_000_000).sum())


def scikit_learn() -> float:
    import numpy as np
    from sklearn.cluster import KMeans

    x = np.random.default_rng(0).random((20_000, 8))
    return float(KMeans(4, n_init=1, max_iter=5, random_state=0).fit(x).inertia_)


def blas() -> float:
    import numpy as np

    return float((np.ones((700, 700)) @ np.ones((700, 700))).sum())


def cuda() -> float:
    import torch

    return float(torch.ones(8, device="cuda").sum())


def pool_of_threads() -> float:
    """As JAX has one: the pool believes that it has its threads."""
    return float(sum(POOL.map(abs, [1, 2])))


def hangs_when_imported_again() -> float:
    if __name__ == "__mp_main__":
        time.sleep(600)
    return 1.0


def hangs_in_workers() -> float:
    return 1.0


POOL = ThreadPoolExecutor(2)
USE = globals()[OF]
USE()

if OF == "hangs_in_workers":
    forks: list[int] = []

    def after_fork() -> None:
        forks.append(1)
        if len(forks) > 1:  # the first is the fork server
            time.sleep(600)

    os.register_at_fork(after_in_child=after_fork)

# Module level runs in the driver, and once in each worker that is spawned.
print("the module of", OF, "is imported")


def run(config: DictConfig) -> float:
    if os.environ.get("DIARY"):
        atexit.register(Path(os.environ["DIARY"], str(os.getpid())).write_text, str(Path.cwd()))
    print("in a trial")
    value = USE()
    iolaus.report(0, loss=config.get("x", 0.0))
    return float(config.get("x", 0.0)) + 0 * value


def closure() -> Any:
    y = 0.0
    return lambda config: run(config) + y


main = hydra.main(version_base=None, config_path=None)(
    closure() if os.environ.get("TASK") == "closure" else run
)

if __name__ == "__main__":
    main()
