"""What a worker with lanes asks its driver for, and in which order it trains."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from iolaus.sweeps.run._channel import ReleasedError
from iolaus.trainer.lanes.kind import NotInLanesError
from iolaus.trainer.lanes.serve import _Room, may_begin, run_lanes
from iolaus.trainer.settings import read

Compose = Callable[..., DictConfig]


class Asked:
    """Stands for a lane_server, and notes for how many trials it was asked."""

    n_lanes, most = 8, 8

    def __init__(self) -> None:
        self.opened: list[int] = []

    def open(self, n_lanes: int) -> None:
        self.opened.append(n_lanes)

    def say(self, _: str) -> None:
        pass


@pytest.mark.parametrize("is_first", [False, True])
def test_a_kind_that_runs_alone_closes_no_lane_of_the_others(
    compose: Compose, is_first: bool
) -> None:
    """A worker asks for trials for all its lanes as long as one kind runs in them, whichever came
    first.
    """
    stacked, refused = read(compose("task=digits")), read(compose("task=digits", "precision=fp16"))
    lane_server = Asked()
    room = _Room(cast(Any, lane_server))
    for run in (refused, stacked) if is_first else (stacked, refused):
        if run is stacked:
            room.consider(run)
        else:
            with pytest.raises(NotInLanesError):
                room.consider(run)
    assert lane_server.opened[-1] == room.n_trials > 8


@given(n_lanes=st.integers(0, 64), n_alone=st.integers(1, 5))
def test_the_wait_to_run_alone_ends(n_lanes: int, n_alone: int) -> None:
    """While a trial waits to run alone, no more begin than there are lanes, and none if there is
    none; otherwise all may begin.
    """
    begun = [n for n in range(200) if may_begin(n_alone, n, n_lanes)]
    assert begun == list(range(n_lanes))
    assert may_begin(0, 200, n_lanes)


class Given(Asked):
    """A lane server that gives trials with these configs, and notes what becomes of them."""

    n_lanes = 4

    def __init__(self, configs: list[DictConfig], folder: Path) -> None:
        super().__init__()
        self._configs, self._folder, self._n_given = configs, folder, 0
        self.under_way: set[int] = set()
        self.happened: list[tuple[str, int]] = []

    def take(self, wait_s: float | None) -> Any:
        if self._n_given == len(self._configs):
            if wait_s is None:
                raise ReleasedError
            return None
        number = self._n_given
        self._n_given += 1
        reporter = SimpleNamespace(
            report=lambda *_: self.under_way.add(number),
            should_stop=lambda: False,
            plan=lambda _: None,
            intervention=lambda: None,
            get_checkpoint=lambda: None,
            should_checkpoint=lambda: False,
        )
        return SimpleNamespace(
            number=number,
            config=self._configs[number],
            folder=self._folder,
            reporter=reporter,
            tell=lambda _: None,
        )

    def hold(self, trial: Any) -> None:
        self.happened.append(("held", trial.number))

    def run_alone(self, trial: Any) -> None:
        assert not self.under_way, f"lanes stand still for trial {trial.number}"
        self.happened.append(("alone", trial.number))

    def finish(self, trial: Any, returned: Any) -> None:
        assert not isinstance(returned, BaseException), returned
        self.under_way.discard(trial.number)
        self.happened.append(("finished", trial.number))

    def fill(self, *_: int) -> None:
        pass

    def flush(self) -> None:
        pass


def test_no_lane_stands_still_for_a_trial_that_runs_alone(compose: Compose, tmp_path: Path) -> None:
    """It waits until no lane has a run, and later ones with it; as many others as have one begin
    before it, and the next ones after it.
    """
    small = ("task=digits", "report_every=5", "eval_every=20", "keep_best=false")
    long, short = (compose(*small, f"steps={n}") for n in (40, 10))
    alone = compose(*small, "precision=fp16")
    server = Given([long] * 3 + [short, alone] * 2 + [short] * 3, tmp_path)
    with pytest.raises(ReleasedError):
        run_lanes(cast(Any, server))
    order = [number for what, number in server.happened if what != "held"]
    assert order[:3] == [3, 5, 7]
    assert sorted(order[3:7]) == [0, 1, 2, 8]
    assert order[7:] == [4, 6, 9]
    assert [n for what, n in server.happened if what == "held"] == [4, 6]
    asked = [n for n, _ in itertools.groupby(server.opened)]
    assert asked == [
        5,
        6,
        7,
        1,
        5,
    ]  # those that wait take no lane's place; then others may have all
