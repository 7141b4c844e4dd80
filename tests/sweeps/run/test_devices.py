"""Which GPUs a process may use, from tables of devices and what tools say."""

from __future__ import annotations

from pathlib import Path

import pytest

from iolaus.sweeps.run.devices import Device, list_devices, visible_devices

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
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    found = list_devices()
    assert [device.name for device in found] == names
    if names:
        assert found[0].total_bytes == 81559 * 2**20
        assert found[1].total_bytes is None
