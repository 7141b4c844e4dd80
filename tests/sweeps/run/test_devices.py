"""Which GPUs a process may use, from tables of devices and what tools say."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iolaus.sweeps.run.devices import (
    Device,
    DeviceReader,
    DeviceUse,
    list_devices,
    visible_devices,
)

GIB = 2**30
CARDS = (
    Device("0", 0, "GPU-aaaa", "A", 80 * GIB, 0),
    Device("1", 1, "GPU-bbbb", "A", 80 * GIB, GIB),
)
DIVIDED = (
    Device("MIG-1", 0, "MIG-1", "A", 10 * GIB, 0, parent="GPU-aaaa"),
    Device("MIG-2", 0, "MIG-2", "A", 10 * GIB, 0, parent="GPU-aaaa"),
    Device("1", 1, "GPU-bbbb", "A", 80 * GIB, 0),
)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("1, 0", ("1", "0")),
        ("GPU-8f3a,MIG-1/2/0", ("GPU-8f3a", "MIG-1/2/0")),
        ("0,-1,1", ("0",)),  # CUDA itself ends the list there
    ],
)
def test_the_users_choice_of_gpus_is_kept(chosen: str, names: tuple[str, ...]) -> None:
    """CUDA_VISIBLE_DEVICES decides, as CUDA reads it, whether a tool knows the device or not."""
    found = visible_devices({"CUDA_VISIBLE_DEVICES": chosen}, lambda: ())
    assert tuple(device.name for device in found) == names
    assert all(device.total_bytes is None for device in found)


@pytest.mark.parametrize(
    ("chosen", "names", "uuids"),
    [
        (None, ["0", "1"], ["GPU-aaaa", "GPU-bbbb"]),
        ("1", ["1"], ["GPU-bbbb"]),
        ("GPU-bb", ["GPU-bb"], ["GPU-bbbb"]),  # CUDA takes the beginning of a UUID
        ("GPU-", ["GPU-"], [""]),  # of two: it is not ours to choose
    ],
)
def test_the_memory_of_chosen_cards_is_known(
    chosen: str | None, names: list[str], uuids: list[str]
) -> None:
    """A name of the user's stays as it is, and stands for a card of the table."""
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    found = visible_devices(environment, lambda: CARDS)
    assert [device.name for device in found] == names
    assert [device.uuid for device in found] == uuids


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["MIG-1", "MIG-2", "1"]),
        ("0", ["MIG-1", "MIG-2"]),
        ("GPU-aaaa,1", ["MIG-1", "MIG-2", "1"]),
        ("MIG-2", ["MIG-2"]),
    ],
)
def test_instances_count_each(chosen: str | None, names: list[str]) -> None:
    """A card divided by MIG is its instances, which CUDA shows to a process one at a time."""
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert [device.name for device in visible_devices(environment, lambda: DIVIDED)] == names


def test_numbers_of_unlike_cards_mean_what_cuda_means() -> None:
    """Where CUDA counts the fastest first, a number is no place in nvidia-smi's order."""
    unlike = (CARDS[0], Device("1", 1, "GPU-bbbb", "B", 20 * GIB, 0))
    choice = {"CUDA_VISIBLE_DEVICES": "1"}
    assert visible_devices(choice, lambda: unlike) == (Device("1"),)
    choice["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    assert visible_devices(choice, lambda: unlike) == (unlike[1],)


CARD = "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 4"


@pytest.mark.parametrize(
    ("script", "names"),
    [
        (f"echo '{CARD}'; echo '1, GPU-b, NVIDIA H100 80GB HBM3, [N/A], 4'", ["0", "1"]),
        ("exit 9", []),
        ("echo 'No devices were found'; exit 6", []),
        (None, []),
    ],
)
def test_gpus_are_those_that_nvidia_smi_lists(
    script: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without NVML, nvidia-smi tells; a driver that does not work, or none, means no GPU."""
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = list_devices()
    assert [device.name for device in found] == names
    if names:
        assert found[0].total_bytes == 81559 * 2**20
        assert found[1].total_bytes is None


class FakeNvml:
    """As much of NVML as is used: two cards, of which the first has two MIG instances."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self) -> None:
        self.n_open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.n_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.n_open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return ("GPU-a", "GPU-b")[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return "A card"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        total = 10 if handle.startswith("MIG") else 80
        return SimpleNamespace(total=total * GIB, used=GIB)

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        if handle == "GPU-b":
            raise self.NVMLError("Not Supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:  # noqa: N802
        if place not in (0, 3):
            raise self.NVMLError("Not Found")
        return f"MIG-{place}"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802
        if handle.startswith("MIG"):
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=25)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        if handle.startswith("MIG"):
            raise self.NVMLError("Not Supported")
        return 61


def test_nvml_lists_instances_and_reads_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances stand in place of their card; what NVML refuses to say of one is left out."""
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    devices = list_devices()
    assert [(d.name, d.uuid, d.parent) for d in devices] == [
        ("MIG-0", "MIG-0", "GPU-a"),
        ("MIG-3", "MIG-3", "GPU-a"),
        ("1", "GPU-b", ""),
    ]
    assert [d.total_bytes for d in devices] == [10 * GIB, 10 * GIB, 80 * GIB]
    reader = DeviceReader(devices)
    uses = reader.read()
    assert uses["1"] == DeviceUse(GIB, 0.25, 61)
    assert uses["MIG-3"] == DeviceUse(GIB)
    assert nvml.n_open == 1
    reader.close()
    assert nvml.n_open == 0
