"""Prometheus metrics of a run, served for as long as it lasts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.errors import NotReady
from harness.load.progress import TPOT_BOUNDS_MS, TTFT_BOUNDS_MS, Latencies, Progress
from harness.spec import Spec

if TYPE_CHECKING:
    from prometheus_client import Metric

PHASES = ("preparing", "starting engine", "calibrating", "warming up", "draining", "performance", "accuracy", "scoring")


class RunMetrics:
    """What a run has done so far, by phase; a collector for prometheus_client. Every metric carries `phase`.

    mlperf_phase (1 for the phase the run is in), mlperf_samples_total, mlperf_sample_errors_total,
    mlperf_samples_expected, mlperf_samples_in_flight, mlperf_samples_per_second and mlperf_tokens_per_second (of the
    last 10 s), mlperf_ttft_seconds and mlperf_tpot_seconds (histograms), and mlperf_run_info with what was asked.
    """

    def __init__(self, spec: Spec) -> None:
        self._asked = {key: str(getattr(spec, key)) for key in ("run_id", "node", "scenario", "mode", "samples")}
        self._phase = PHASES[0]
        self._seen: dict[str, Progress] = {}

    def enter(self, phase: str) -> None:
        """The run enters a phase."""
        self._phase = phase

    def note(self, progress: Progress) -> None:
        """How far the phase is."""
        self._seen = {**self._seen, self._phase: progress}

    def collect(self) -> "Iterable[Metric]":
        """All metrics as of now; called by the server's threads."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        seen, phase = self._seen, self._phase
        yield InfoMetricFamily("mlperf_run", "What was asked.", value=self._asked)
        where = GaugeMetricFamily("mlperf_phase", "1 for the phase that the run is in.", labels=["phase"])
        for name in dict.fromkeys((*PHASES, phase)):
            where.add_metric([name], float(name == phase))
        yield where
        done = CounterMetricFamily("mlperf_samples", "Samples finished.", labels=["phase"])
        failed = CounterMetricFamily("mlperf_sample_errors", "Samples that failed.", labels=["phase"])
        gauges = {
            name: GaugeMetricFamily(f"mlperf_{name}", text, labels=["phase"])
            for name, text in (
                ("samples_expected", "Samples that the phase will have, where that is known."),
                ("samples_in_flight", "Samples at the engines now."),
                ("samples_per_second", "Samples finished per second, over the last 10 s."),
                ("tokens_per_second", "Tokens received per second, over the last 10 s."),
            )
        }
        for name, progress in seen.items():
            done.add_metric([name], progress.done)
            failed.add_metric([name], progress.failed)
            now = name == phase
            values = {
                "samples_expected": progress.total,
                "samples_in_flight": progress.in_flight if now else 0,
                "samples_per_second": progress.samples_per_s if now else 0.0,
                "tokens_per_second": progress.tokens_per_s if now else 0.0,
            }
            for key, value in values.items():
                if value is not None:
                    gauges[key].add_metric([name], value)
        yield from (done, failed, *gauges.values())
        yield _histogram("ttft", "Time to first token, from LoadGen's issue.", TTFT_BOUNDS_MS, seen)
        yield _histogram("tpot", "Time per output token after the first.", TPOT_BOUNDS_MS, seen)


def _histogram(key: str, text: str, bounds_ms: tuple[float, ...], seen: dict[str, Progress]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    found = HistogramMetricFamily(f"mlperf_{key}_seconds", text, labels=["phase"])
    for name, progress in seen.items():
        latencies: Latencies = getattr(progress, key)
        if latencies.count:
            bounded = zip([f"{bound / 1000:g}" for bound in bounds_ms], latencies.at_most, strict=True)
            found.add_metric([name], [*bounded, ("+Inf", latencies.count)], latencies.sum_ms / 1000)
    return found


@contextmanager
def served(metrics: RunMetrics, port: int | None) -> Iterator[None]:
    """Serve the metrics at `port`, path /metrics, on all of the host's addresses; nothing when there is no port.

    Raises:
        NotReady: the port is taken.
    """
    if port is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        raise NotReady(f"metrics_port = {port}: {error.strerror}; choose another, or none") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
