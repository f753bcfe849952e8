"""Prometheus metrics of a run, served while it lasts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.errors import NotReady
from harness.load.progress import TPOT_BOUNDS_MS, TTFT_BOUNDS_MS, Latencies, Progress
from harness.spec import Spec

if TYPE_CHECKING:
    from prometheus_client import Metric

PHASES = (
    "preparing",
    "starting engine",
    "calibrating",
    "warming up",
    "draining",
    "probing",
    "performance",
    "accuracy",
    "compliance",
    "scoring",
)


class RunMetrics:
    """A run's progress by phase, as a collector for prometheus_client. All metrics have the label `phase`.

    mlperf_phase (1 for the current phase), mlperf_samples_total, mlperf_sample_errors_total, mlperf_samples_expected,
    mlperf_samples_in_flight, mlperf_samples_per_second and mlperf_tokens_per_second (over the last 10 s),
    mlperf_ttft_seconds and mlperf_tpot_seconds (histograms), and mlperf_run_info with the run's settings.
    """

    def __init__(self, spec: Spec) -> None:
        self._settings = {key: str(getattr(spec, key)) for key in ("run_id", "node", "scenario", "mode", "samples")}
        self._phase = PHASES[0]
        self._progress: dict[str, Progress] = {}

    def enter(self, phase: str) -> None:
        """Start a phase."""
        self._phase = phase

    def note(self, progress: Progress) -> None:
        """Set the progress of the current phase."""
        self._progress = {**self._progress, self._phase: progress}

    def collect(self) -> "Iterable[Metric]":
        """All current metrics; called in the server's threads."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        by_phase, phase = self._progress, self._phase
        yield InfoMetricFamily("mlperf_run", "Settings of the run.", value=self._settings)
        current = GaugeMetricFamily("mlperf_phase", "1 for the current phase.", labels=["phase"])
        for name in dict.fromkeys((*PHASES, phase)):
            current.add_metric([name], float(name == phase))
        yield current
        done = CounterMetricFamily("mlperf_samples", "Samples finished.", labels=["phase"])
        failed = CounterMetricFamily("mlperf_sample_errors", "Samples that failed.", labels=["phase"])
        gauges = {
            name: GaugeMetricFamily(f"mlperf_{name}", text, labels=["phase"])
            for name, text in (
                ("samples_expected", "Total samples of the phase, if known."),
                ("samples_in_flight", "Samples in flight at the engines."),
                ("samples_per_second", "Samples finished per second, over the last 10 s."),
                ("tokens_per_second", "Tokens received per second, over the last 10 s."),
            )
        }
        for name, progress in by_phase.items():
            done.add_metric([name], progress.done)
            failed.add_metric([name], progress.failed)
            is_current = name == phase
            values = {
                "samples_expected": progress.total,
                "samples_in_flight": progress.in_flight if is_current else 0,
                "samples_per_second": progress.samples_per_s if is_current else 0.0,
                "tokens_per_second": progress.tokens_per_s if is_current else 0.0,
            }
            for key, value in values.items():
                if value is not None:
                    gauges[key].add_metric([name], value)
        yield from (done, failed, *gauges.values())
        yield _histogram("ttft", "Time to first token, from LoadGen's issue.", TTFT_BOUNDS_MS, by_phase)
        yield _histogram("tpot", "Time per output token after the first.", TPOT_BOUNDS_MS, by_phase)


def _histogram(key: str, text: str, bounds_ms: tuple[float, ...], by_phase: dict[str, Progress]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    histogram = HistogramMetricFamily(f"mlperf_{key}_seconds", text, labels=["phase"])
    for name, progress in by_phase.items():
        latencies: Latencies = getattr(progress, key)
        if latencies.count:
            bounded = zip([f"{bound / 1000:g}" for bound in bounds_ms], latencies.at_most, strict=True)
            histogram.add_metric([name], [*bounded, ("+Inf", latencies.count)], latencies.sum_ms / 1000)
    return histogram


@contextmanager
def served(metrics: RunMetrics, port: int | None, address: str = "127.0.0.1") -> Iterator[None]:
    """Serve the metrics at path /metrics of `port`, at this address of the host; does nothing without a port.

    Raises:
        NotReady: the port is in use, or the address is not this host's.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, address, registry=registry)
    except OSError as error:
        where = f"metrics_port = {port} at {address}"
        raise NotReady(f"{where}: {error.strerror}; choose another, or none") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
