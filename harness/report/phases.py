"""The record's parts about each LoadGen's run: phases, calibration, attempts, search and failures."""

from collections.abc import Iterator, Sequence

import numpy as np

from harness.report import figures, tables
from harness.report.attempts import Load
from harness.report.journals import Table
from harness.report.load_inputs import Inputs, LoadGenRun
from harness.report.record import Attempt, Calibration, Failure, Peak, Phase, Resumed


def phases(loadgens: Sequence[LoadGenRun]) -> Iterator[Phase]:
    """The judged performance run and the accuracy run of each LoadGen, as far as they finished."""
    for loadgen in loadgens:
        for mode in figures.MODES:
            part = figures.part_of(loadgen, mode)
            if part is None:
                continue
            seconds, client = part.finished_unix - part.started_unix, part.client_cpu_s
            attempt = loadgen.last_attempt if mode == "performance" else None
            yield Phase(
                mode=mode,
                node=loadgen.host,
                seconds=seconds,
                samples=part.samples,
                target_qps=attempt.target_qps if attempt else loadgen.outcome.target_qps,
                client_cpu_cores=client / seconds if client is not None and seconds > 0 else None,
            )


def calibrations(inputs: Inputs) -> Iterator[Calibration]:
    """The measurements that chose the rates: those made in the runs themselves, and those made before them."""
    own = {loadgen.host: loadgen.outcome.calibration for loadgen in inputs.loadgens if loadgen.outcome.calibration}
    for host, calibration in {**inputs.calibrations, **own}.items():
        yield Calibration(node=host, **calibration.model_dump(exclude={"tried"}))


def attempts(loadgens: Sequence[LoadGenRun]) -> Iterator[Attempt]:
    """Every attempt of every LoadGen, in order."""
    for loadgen in loadgens:
        for attempt in loadgen.attempts:
            yield Attempt(node=loadgen.host, **attempt.model_dump())


def resumed(loadgens: Sequence[LoadGenRun]) -> Iterator[Resumed]:
    """Every time that a LoadGen's run was resumed, in order."""
    for loadgen in loadgens:
        for one in loadgen.outcome.resumed:
            yield Resumed(node=loadgen.host, **one.model_dump())


def peaks(loadgens: Sequence[LoadGenRun]) -> Iterator[Peak]:
    """Each LoadGen's search for the highest rate, where there was one."""
    for loadgen in loadgens:
        if peak := loadgen.outcome.peak:
            yield Peak(node=loadgen.host, **peak.model_dump())


def loads(inputs: Inputs, journal: Table) -> dict[str, Load]:
    """Load of the engines in each LoadGen's judged performance run, by host."""
    limits = {engine.file.name: engine.file.config.get("max_num_seqs") for engine in inputs.engines}
    steps = {ref.name: ref.tokens_per_step for one in inputs.loadgens if one.spec for ref in one.spec.engines}
    by_host = {}
    performance = journal[journal["mode"] == "performance"]
    for host in tables.names(performance["loadgen"]):
        rows = performance[performance["loadgen"] == host]
        engines = tables.names(rows["engine"])
        seconds = float(rows["done_unix"].max() - rows["issued_unix"].min())
        sizes = [limit for engine in engines if isinstance(limit := limits.get(engine), int)]
        caps = [cap for engine in engines if (cap := steps.get(engine))]
        by_host[host] = Load(
            distinct_samples=len(np.unique(rows["qsl_idx"])),
            in_flight=float(rows["e2e_ms"].sum()) / 1e3 / seconds / len(engines) if seconds > 0 else None,
            max_num_seqs=min(sizes) if len(sizes) == len(engines) else None,
            tokens_per_step=min(caps) if len(caps) == len(engines) else None,
        )
    return by_host


def failures(inputs: Inputs) -> Iterator[Failure]:
    """Failures that Ansible reported, then those in the status of the other hosts' runs."""
    for failure in inputs.failures:
        yield Failure(node=failure.host, phase=failure.phase, reason=failure.reason, log=failure.log)
    reported = {failure.host for failure in inputs.failures}
    for loadgen in inputs.loadgens:
        status = loadgen.status
        if status and not loadgen.finished and loadgen.host not in reported:
            reason = status.reason or status.state
            yield Failure(node=loadgen.host, phase=status.phase, reason=reason, log=status.log)
