"""NVML as its Python binding shows it: made-up A30s, calls that fail on request, and its error numbers."""

from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30


class FakeNvml:
    """Stands in for the module `pynvml`; `fault` makes opening fail, `broken` names calls that fail."""

    def __init__(self, gpus: int = 0, fault: str | None = None, broken: set[str] | None = None) -> None:
        self._gpus, self._fault, self._broken = gpus, fault, broken or set()
        self.holders: list[Any] = []
        self.shut_down = False
        self.fabric = pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)
        if name in self._broken:
            return self._fail
        return {
            "nvmlDeviceGetCount": lambda: self._gpus,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlSystemGetDriverVersion": lambda: "580.65.06",
            "nvmlSystemGetCudaDriverVersion": lambda: 13000,
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=71, memory=40),
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=18 * GIB, total=24 * GIB),
            "nvmlDeviceGetPowerUsage": lambda _: 163_500,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: 7_250_125,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x4 | 0x20 | 0x1,
            "nvmlDeviceGetClockInfo": lambda _, kind: {pynvml.NVML_CLOCK_SM: 1440}[kind],
            "nvmlDeviceGetTemperature": lambda _, kind: {pynvml.NVML_TEMPERATURE_GPU: 61}[kind],
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 165_000,
            "nvmlDeviceGetEccMode": lambda _: [1, 1],
            "nvmlDeviceGetMigMode": lambda _: [0, 0],
            "nvmlDeviceGetName": lambda _: b"NVIDIA A30",
            "nvmlDeviceGetUUID": lambda index: f"GPU-{index}",
            "nvmlDeviceGetMaxClockInfo": lambda _, kind: {pynvml.NVML_CLOCK_SM: 1440}[kind],
            "nvmlDeviceGetMaxPcieLinkGeneration": lambda _: 4,
            "nvmlDeviceGetMaxPcieLinkWidth": lambda _: 16,
            "nvmlDeviceGetPciInfo": lambda index: SimpleNamespace(busId=f"00000000:0{index}:00.0".encode()),
            "nvmlDeviceGetCurrPcieLinkGeneration": lambda _: 1,
            "nvmlDeviceGetCurrPcieLinkWidth": lambda _: 8,
            "nvmlDeviceGetApplicationsClock": lambda _, kind: {pynvml.NVML_CLOCK_SM: 1200}[kind],
            "nvmlDeviceGetGpuFabricInfo": self._fabric_info,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: self.holders,
        }[name]

    def nvmlInit(self) -> None:  # noqa: N802
        if self._fault:
            raise pynvml.NVMLError(getattr(pynvml, self._fault))

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut_down = True

    def _fabric_info(self, _: int, info: Any) -> int:
        info._obj.state = self.fabric
        return int(pynvml.NVML_SUCCESS)

    def _fail(self, *_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
