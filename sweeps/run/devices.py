"""The GPUs of this machine: which there are, which this process may use, how they are used now.

Read through NVML (the extra `gpu`), or else nvidia-smi; CUDA is not loaded for it.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "GPU_VARIABLE",
    "ORDER_VARIABLE",
    "PCI_ORDER",
    "Device",
    "DeviceReader",
    "DeviceUse",
    "list_devices",
    "visible_devices",
]

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
# CUDA counts the fastest card first unless told to count as NVML and nvidia-smi do.
PCI_ORDER = "PCI_BUS_ID"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """How a device is used at a moment.

    used_bytes: of its memory, by all processes. utilisation: share of the last moments in which
    anything ran, in [0, 1]. temperature_c: degrees Celsius. What cannot be read is None; MIG
    instances say neither of the last two.
    """

    used_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG instance of one.

    name: as CUDA_VISIBLE_DEVICES wants it. index: of the card, as nvidia-smi counts; uuid: its own,
    "" if unknown. model: such as "NVIDIA H100 80GB HBM3". total_bytes, used_bytes: of its memory,
    when it was listed, None if unknown. parent: the uuid of the card that a MIG instance is of,
    else "".
    """

    name: str
    index: int | None = None
    uuid: str = ""
    model: str = ""
    total_bytes: int | None = None
    used_bytes: int | None = None
    parent: str = ""


def visible_devices(
    environment: Mapping[str, str], listed: Callable[[], Sequence[Device]]
) -> tuple[Device, ...]:
    """The GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES where that is set.

    Indices, UUIDs or their beginnings, and MIG instances are understood; a card that is divided
    into MIG instances counts as these. One that is not among the listed keeps its name, and its
    memory is not known. listed: all devices of the machine in nvidia-smi's order.
    """
    chosen = environment.get(GPU_VARIABLE)
    if chosen is None:
        return tuple(listed())
    names = [name.strip() for name in chosen.split(",")]
    # CUDA ends the list there too.
    names = list(itertools.takewhile(lambda name: name not in ("", "-1"), names))
    known = listed() if names else ()
    same_order = environment.get(ORDER_VARIABLE) == PCI_ORDER or len({d.model for d in known}) < 2
    return tuple(device for name in names for device in _named(name, known, same_order))


def _named(name: str, known: Sequence[Device], same_order: bool) -> list[Device]:
    """What a name of CUDA_VISIBLE_DEVICES stands for."""
    if name.isdecimal():
        found = [device for device in known if same_order and device.index == int(name)]
    else:
        found = [d for d in known if d.uuid.startswith(name)] or [
            d for d in known if d.parent and d.parent.startswith(name)
        ]
    if any(device.parent for device in found):
        return found
    return [replace(found[0], name=name)] if len(found) == 1 else [Device(name)]


def list_devices() -> tuple[Device, ...]:
    """All GPUs of this machine, MIG instances in place of their card; none without a driver."""
    with _nvml() as nvml:
        if nvml is not None:
            return tuple(_listed_by(nvml))
    return _listed_by_smi()


class DeviceReader:
    """Reads how devices are used, again and again; keeps NVML open until it is closed."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = [device for device in devices if device.uuid]
        self._stack = ExitStack()
        self._nvml = self._stack.enter_context(_nvml()) if self._devices else None
        self.close = self._stack.close

    def read(self) -> dict[str, DeviceUse]:
        """How they are used now, by name; those that NVML cannot tell of are left out."""
        if self._nvml is None:
            return {}
        found = {}
        for device in self._devices:
            with suppress(self._nvml.NVMLError):
                handle = self._nvml.nvmlDeviceGetHandleByUUID(device.uuid)
                found[device.name] = _use(self._nvml, handle)
        return found


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, open; None where it is missing."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # not installed, or no driver: NVMLError cannot be named yet
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _listed_by(nvml: Any) -> Iterator[Device]:
    for index in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, model = nvml.nvmlDeviceGetUUID(card), nvml.nvmlDeviceGetName(card)
        instances = list(_instances(nvml, card))
        for handle in instances or [card]:
            own = nvml.nvmlDeviceGetUUID(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            name, parent = (own, uuid) if instances else (str(index), "")
            yield Device(
                *(name, index, own, model, int(memory.total), int(memory.used)), parent=parent
            )


def _instances(nvml: Any, card: Any) -> Iterator[Any]:
    with suppress(nvml.NVMLError):  # a card that knows no MIG
        if not nvml.nvmlDeviceGetMigMode(card)[0]:
            return
        for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with suppress(nvml.NVMLError):  # a place without an instance
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)


def _use(nvml: Any, handle: Any) -> DeviceUse:
    used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    utilisation = temperature = None
    with suppress(nvml.NVMLError):
        utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    with suppress(nvml.NVMLError):
        temperature = int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    return DeviceUse(used, utilisation, temperature)


def _listed_by_smi() -> tuple[Device, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = "index,uuid,name,memory.total,memory.used"
    try:
        listing = subprocess.run(
            [tool, f"--query-gpu={asked}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in listing.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[0].isdecimal():
            index, uuid, model, total, used = fields
            found.append(Device(index, int(index), uuid, model, _bytes(total), _bytes(used)))
    return tuple(found)


def _bytes(mib: str) -> int | None:
    return int(mib) * _MIB if mib.isdecimal() else None
