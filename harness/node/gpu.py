"""The machine's GPUs, read through NVML. No GPU is not an error, a broken driver is."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pynvml

from harness.host_facts import PCI_DEVICES

GIB = 1 << 30
# The bits of NVML's clock event reasons that stand for throttling, without idling and application clocks.
_THROTTLES = {0x4: "power", 0x8: "hardware", 0x20: "thermal", 0x40: "hardware_thermal", 0x80: "power_brake"}


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses memory on a GPU; `memory_gib` is None where NVML does not report it."""

    gpu_index: int
    pid: int
    memory_gib: float | None


class Gpus:
    """An NVML session. Without GPUs, `count` is 0, `problem` says why, and `broken` whether that is a fault."""

    def __init__(self, nvml: ModuleType | Any = pynvml) -> None:
        self._nvml = nvml
        self._handles: list[Any] = []
        self.problem: str | None = None
        self.broken = False
        try:
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            if not self._handles:
                self.problem = "the NVIDIA driver sees no GPU"
        except nvml.NVMLError as error:
            self.problem, self.broken = _explain(nvml, error)

    @property
    def count(self) -> int:
        """The number of GPUs."""
        return len(self._handles)

    def close(self) -> None:
        """End the NVML session."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def driver(self) -> str | None:
        """The kernel driver's version."""
        return self._text(self._nvml.nvmlSystemGetDriverVersion)

    @property
    def cuda(self) -> str | None:
        """The newest CUDA version that the driver supports."""
        number = self._read(self._nvml.nvmlSystemGetCudaDriverVersion)
        return None if number is None else f"{number // 1000}.{number % 1000 // 10}"

    def sample(self) -> list[dict[str, Any]]:
        """Each GPU's utilization now, under the column names of telemetry.csv; None for values that cannot be read."""
        nvml = self._nvml
        rows = []
        for index, handle in enumerate(self._handles):
            rates = self._read(nvml.nvmlDeviceGetUtilizationRates, handle)
            memory = self._read(nvml.nvmlDeviceGetMemoryInfo, handle)
            power = self._read(nvml.nvmlDeviceGetPowerUsage, handle)
            energy = self._read(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            reasons = self._read(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
            rows.append(
                {
                    "gpu_index": index,
                    "gpu_util_percent": None if rates is None else rates.gpu,
                    "gpu_memory_used_gib": None if memory is None else round(memory.used / GIB, 3),
                    "gpu_power_w": None if power is None else round(power / 1000, 1),
                    "gpu_sm_clock_mhz": self._read(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
                    "gpu_temperature_c": self._read(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
                    "gpu_energy_j": None if energy is None else round(energy / 1000, 3),
                    "gpu_throttle": None if reasons is None else _throttles(reasons),
                }
            )
        return rows

    def describe(self) -> list[dict[str, Any]]:
        """Each GPU's properties, under the names of manifest.json."""
        nvml = self._nvml
        descriptions = []
        for index, handle in enumerate(self._handles):
            memory = self._read(nvml.nvmlDeviceGetMemoryInfo, handle)
            limit = self._read(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            ecc = self._read(nvml.nvmlDeviceGetEccMode, handle)
            mig = self._read(nvml.nvmlDeviceGetMigMode, handle)
            descriptions.append(
                {
                    "index": index,
                    "name": self._text(nvml.nvmlDeviceGetName, handle),
                    "uuid": self._uuid(handle),
                    "memory_gib": None if memory is None else round(memory.total / GIB, 2),
                    "driver": self.driver,
                    "power_limit_w": None if limit is None else round(limit / 1000, 1),
                    "sm_clock_max_mhz": self._read(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
                    "sm_clock_set_mhz": self._read(nvml.nvmlDeviceGetApplicationsClock, handle, nvml.NVML_CLOCK_SM),
                    "pcie_gen": self._read(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
                    "pcie_width": self._read(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
                    "pcie_gen_now": self._read(nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
                    "pcie_width_now": self._read(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
                    "numa_node": self._numa_node(handle),
                    "ecc": None if ecc is None else bool(ecc[0]),
                    "mig": None if mig is None else bool(mig[0]),
                }
            )
        return descriptions

    def near_cores(self, wanted: Sequence[str], devices: Path = PCI_DEVICES) -> str | None:
        """The cores of the NUMA nodes that GPUs, by number or UUID, are attached to, such as "0,1,32", for `taskset`.

        Only those that this process may use, as a container may not use all. None where the machine has only one NUMA
        node or does not say, where there is no such GPU, or no such core. Memory follows: it is taken from the node of
        the core that first writes to it.
        """
        known = {
            name: handle for index, handle in enumerate(self._handles) for name in (str(index), self._uuid(handle))
        }
        handles = [known[name] for name in wanted if name in known]
        if not handles or any(self._numa_node(handle, devices) is None for handle in handles):
            return None
        lists = [self._pci_file(handle, "local_cpulist", devices) for handle in handles]
        near = {core for text in lists for core in _cores(text or "")}
        return ",".join(map(str, sorted(near & os.sched_getaffinity(0)))) or None

    def _uuid(self, handle: Any) -> str | None:
        return self._text(self._nvml.nvmlDeviceGetUUID, handle)

    def _numa_node(self, handle: Any, devices: Path = PCI_DEVICES) -> int | None:
        """The NUMA node that a GPU is attached to; None where the machine has only one, or does not say."""
        text = self._pci_file(handle, "numa_node", devices)
        return int(text) if text and text.isdecimal() else None

    def _pci_file(self, handle: Any, name: str, devices: Path) -> str | None:
        """What the kernel says of a GPU's PCI device; None where that cannot be read."""
        place = self._read(self._nvml.nvmlDeviceGetPciInfo, handle)
        if place is None:
            return None
        bus = place.busId.decode() if isinstance(place.busId, bytes) else place.busId
        try:
            return (devices / bus.lower()[-12:] / name).read_text().strip()
        except (OSError, ValueError):
            return None

    def outside_fabric(self) -> list[int]:
        """Numbers of the GPUs of an NVSwitch machine that its fabric manager has not set up, where the driver tells."""
        nvml, outside = self._nvml, []
        for index, handle in enumerate(self._handles):
            fabric = nvml.c_nvmlGpuFabricInfo_t()
            read = self._read(nvml.nvmlDeviceGetGpuFabricInfo, handle, ctypes.byref(fabric)) is not None
            if read and fabric.state in (
                nvml.NVML_GPU_FABRIC_STATE_NOT_STARTED,
                nvml.NVML_GPU_FABRIC_STATE_IN_PROGRESS,
            ):
                outside.append(index)
        return outside

    def processes(self) -> list[GpuProcess]:
        """All compute processes on the GPUs."""
        return [
            GpuProcess(index, entry.pid, None if entry.usedGpuMemory is None else round(entry.usedGpuMemory / GIB, 2))
            for index, handle in enumerate(self._handles)
            for entry in self._read(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        ]

    def _read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _text(self, function: Callable[..., Any], *arguments: Any) -> str | None:
        value = self._read(function, *arguments)
        return value.decode() if isinstance(value, bytes) else value


def _cores(text: str) -> Iterator[int]:
    """The numbers in a kernel's list such as "0-15,32"."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _throttles(reasons: int) -> str:
    return "+".join(name for bit, name in _THROTTLES.items() if reasons & bit) or "none"


def _explain(nvml: Any, error: Any) -> tuple[str, bool]:
    """An NVML error in words, and whether it is a fault rather than a machine without GPUs."""
    explanations = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: ("no NVIDIA driver is installed", False),
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is installed but not loaded; run `modprobe nvidia` and check dmesg, or reboot",
            True,
        ),
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "driver/library version mismatch: NVIDIA's libraries were updated while the older kernel module stayed "
            "loaded; reboot, or stop everything on the GPU and reload the nvidia modules",
            True,
        ),
        nvml.NVML_ERROR_NO_PERMISSION: (
            "this user may not use NVML; add the user to the group that owns /dev/nvidia*",
            True,
        ),
        nvml.NVML_ERROR_GPU_IS_LOST: ("a GPU has fallen off the bus; reboot, and check its power and seating", True),
    }
    return explanations.get(error.value, (f"NVML error: {error}; run nvidia-smi and check dmesg", True))
