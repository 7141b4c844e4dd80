"""What a session costs while it runs."""

from __future__ import annotations

from iolaus.sweeps.run._messages import WorkerSpec
from iolaus.sweeps.run.meter import Meter, machine_of
from iolaus.sweeps.study.budget import Cost
from iolaus.sweeps.study.preview import Machine


def test_slots_cost_while_they_have_a_trial() -> None:
    """Wall time always; cores and GPUs of busy slots, a GPU that two of them share once."""
    now_s = [100.0]
    gpu = [(("CUDA_VISIBLE_DEVICES", name),) for name in ("0", "1", "0")]
    meter = Meter([WorkerSpec(i, gpu[i], 4) for i in range(3)], lambda: now_s[0])
    assert meter.read(()) == Cost()
    now_s[0] += 10
    assert meter.read({0, 2}) == Cost(10, 80, 10)
    now_s[0] += 5
    assert meter.read([0, 0, 1, 2]) == Cost(15, 80 + 60, 20)
    now_s[0] += 1
    assert meter.read(()) == Cost(16, 140, 20)


def test_slots_that_may_stay_empty_are_not_counted_on() -> None:
    """Under trials_per_gpu=auto one trial on each GPU is sure; else there is one in each slot."""
    slots = [WorkerSpec(i, (("CUDA_VISIBLE_DEVICES", str(i % 2)),), 1) for i in range(16)]
    assert machine_of(slots, 1, "auto") == Machine(2, 16, 2)
    assert machine_of(slots, 4, 8) == Machine(64, 16, 2)
