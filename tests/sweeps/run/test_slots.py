"""How many trials run side by side, and what each may use."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iolaus.sweeps.errors import BadInputError
from iolaus.sweeps.run._slots import physical_cores, plan_slots
from iolaus.sweeps.run.devices import Device

gpu_lists = st.lists(st.sampled_from(["0", "1", "GPU-8f3a", "MIG-1/2/0"]), max_size=4, unique=True)


@given(n_jobs=st.just("auto") | st.integers(0, 40), gpus=gpu_lists, n_cores=st.integers(1, 64))
def test_slots_share_the_machine(n_jobs: int | str, gpus: list[str], n_cores: int) -> None:
    """As many slots as asked, else one per GPU, else one per core; threads are shared, and GPUs go
    round evenly.
    """
    slots = plan_slots(n_jobs, [Device(gpu) for gpu in gpus], n_cores)
    assert len(slots) == (max(n_jobs, 1) if n_jobs != "auto" else len(gpus) or n_cores)
    assert [spec.slot for spec in slots] == list(range(len(slots)))
    (n_threads,) = {spec.n_threads for spec in slots}
    assert n_threads is not None
    assert n_threads >= 1
    assert n_threads == 1 or n_cores - len(slots) < n_threads * len(slots) <= n_cores
    used = [dict(spec.environment).get("CUDA_VISIBLE_DEVICES") for spec in slots]
    if gpus:
        counts = [used.count(gpu) for gpu in gpus]
        assert sum(counts) == len(slots)
        assert max(counts) - min(counts) <= 1
    else:
        assert set(used) == {None}


@pytest.mark.parametrize("n_jobs", [-1, "many", "4", 1.5, None, True])
def test_no_number_of_slots_is_refused(n_jobs: Any) -> None:
    """The sentence names the option, what came, and what is possible."""
    with pytest.raises(
        BadInputError, match=rf"hydra\.sweeper\.n_jobs={n_jobs}: .*1 or more, or auto"
    ):
        plan_slots(n_jobs, [], 4)


def test_physical_cores_are_those_this_process_may_use() -> None:
    """At least one, at most the logical CPUs of this process; on one CPU it is one."""
    allowed = os.sched_getaffinity(0)
    assert 1 <= physical_cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert physical_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
