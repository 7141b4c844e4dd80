"""Tasks that no sweep should have to bear: each does what could harm more than its trial."""

import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import hydra
import optuna
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

import iolaus


class Fury(BaseException):
    """What `except Exception` does not catch."""


class Bomb:
    """It can be sent, and goes off where it is made."""

    def __reduce__(self) -> tuple:
        return os.kill, (os.getppid(), signal.SIGKILL)

    def __repr__(self) -> str:
        raise RuntimeError("not even its name")


def fork_and_leave(n: int) -> None:
    for _ in range(n):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)


def report_from_a_child() -> None:
    if (child := os.fork()) == 0:
        iolaus.report(0, loss=1.0)
        os._exit(0)
    os.waitpid(child, 0)


def report_for_ever() -> None:
    while True:
        time.sleep(0.01)
        iolaus.report(7, loss=1000.0)  # no other task reports a thousand


def eat_all_memory() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, before[1]))
    try:
        eaten = []
        while True:
            eaten.append(bytearray(10_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def swallow() -> None:
    for step in range(5):
        with contextlib.suppress(optuna.TrialPruned):
            iolaus.report(step, loss=float("nan"))


def print_much(n_bytes: int) -> None:
    line = "x" * 1_000_000
    for _ in range(n_bytes // len(line)):
        print(line)


@hydra.main(version_base=None, config_path=None, config_name="hell")
def main(cfg):
    folder = Path(HydraConfig.get().runtime.output_dir)
    match "good" if cfg.good else cfg.do:
        case "hang":
            time.sleep(600)
        case "hang deaf":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: None)
            while True:
                time.sleep(1)
        case "fork":
            fork_and_leave(3)
        case "print":
            print_much(cfg.n_bytes)
        case "chdir":
            os.chdir("/")
        case "delete folder":
            shutil.rmtree(folder)
        case "delete and enter":
            (folder / "inside").mkdir()
            os.chdir(folder / "inside")
            shutil.rmtree(folder)
        case "text":
            return "a string"
        case "long text":
            return "x" * 50_000_000
        case "million":
            return [float(i) for i in range(1_000_000)]
        case "bomb":
            return Bomb()
        case "number and bomb":
            iolaus.report(0, loss=2.0)
            return Bomb()
        case "raise much":
            raise ValueError("x" * 5_000_000)
        case "os exit 0":
            os._exit(0)
        case "crash":
            ctypes.string_at(0)
        case "memory":
            eat_all_memory()
        case "swallow":
            swallow()
        case "late reports":
            threading.Thread(target=report_for_ever, daemon=True).start()
        case "child reports":
            report_from_a_child()
            return None
        case "fury":
            raise Fury("unheard of")
        case "close stdout":
            sys.stdout.close()
        case "close descriptors":
            os.close(1)
            os.close(2)
        case "replace stdout":
            sys.stdout = sys.stderr = None
        case "threads":
            threading.Thread(target=time.sleep, args=(600,)).start()
        case "close all":
            os.closerange(3, 1000)
            time.sleep(600)
        case "fill disk":
            values = random.Random(HydraConfig.get().job.num)
            for step in range(cfg.n_steps):
                iolaus.report(step, loss=values.random(), noise=values.random())
                time.sleep(0.0001)
            return None
        case "good":
            print("good to see")
            iolaus.report(0, loss=1.0)
            time.sleep(0.1)
            iolaus.report(1, loss=1.0)
            return None
    return 0.5


if __name__ == "__main__":
    ConfigStore.instance().store(
        "hell", {"do": "good", "n_bytes": 3_000_000, "n_steps": 20_000, "good": False, "x": 0.0}
    )
    main()
