"""What a worker with lanes asks its driver for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from omegaconf import DictConfig

from iolaus.trainer.lanes.kind import NotInLanesError
from iolaus.trainer.lanes.serve import _Room
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
