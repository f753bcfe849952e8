"""Read an engine's log: the current step of the start, the settings in effect, and the cause of a failure."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.engine.log_causes import known_cause
from harness.printable import printable

_STEPS = (
    (re.compile(r"non-default args:"), "reading the model's configuration"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine core"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"checkpoint shards:.*\| *(\d+)/(\d+)"), "loading weights, file {0} of {1}"),
    (re.compile(r"Loading weights took"), "weights loaded, sizing the KV cache"),
    (re.compile(r"Dynamo bytecode transform|torch\.compile takes"), "compiling"),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "KV cache holds {0} tokens, warming up"),
    (re.compile(r"Capturing CUDA graphs"), "capturing CUDA graphs"),
    (re.compile(r"init engine .*took"), "engine core ready, starting the HTTP server"),
    (re.compile(r"Application startup complete"), "HTTP server started"),
    (re.compile(r"Loading weights:.*?(\d+)/(\d+)"), "loading weights, {0} of {1}"),
    (re.compile(r"^step: (.*)"), "{0}"),
)
_CORE_CONFIG = re.compile(r"Initializing a V1 LLM engine .*with config: (.*)")
_PREFIX = re.compile(r"^(\(\S+ pid=\d+\)\s*)?((?:ERROR|CRITICAL|WARNING|INFO)\s[\d-]+ [\d:.]+ \[[^\]]*\]\s?)?")
_EXCEPTION = re.compile(r"^([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Failure|Interrupt|Resources)(_\w+)?(: .*|$)")
_FATAL = re.compile(
    r"(died|exited) unexpectedly|^Killed$|Segmentation fault|terminate called after|Fatal Python error|"
    r"\berror: |No space left on device|Address already in use|Bus error|Illegal instruction|NCCL WARN Error|"
    r"\bld(\.\w+)?: cannot find|cannot open shared object file"
)
# Exceptions that only report another one.
_SECONDARY = re.compile(
    r"See root cause above|root cause\.?$|check the stack trace above|EngineDeadError|KeyboardInterrupt|SystemExit"
)
# That a process ended is the cause only where no error came before.
_CONSEQUENCE = re.compile(r"(died|exited) unexpectedly|^Killed$")
# Python's resource tracker complains about what a killed process left; its tracebacks end in its own file.
_TRACKER = re.compile(r"resource_tracker|ResourceTracker|^\s*warnings\.warn\(|^Traceback \(most recent")
_FRAME = re.compile(r'^\s*File "')
_READ_BYTES = 1 << 20
_UNKNOWN = "its log names no known cause, and ends with"


class StartLog:
    """Follows the log of a starting engine and reports the step it has reached."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._partial_line = b""

    def step(self) -> str | None:
        """The latest step since the last call; None when there is none."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read(_READ_BYTES)
        except OSError:
            return None
        self._offset += len(data)
        *lines, self._partial_line = re.split(rb"[\r\n]", self._partial_line + data)
        latest = None
        for line in lines:
            text = line.decode(errors="replace")
            for pattern, sentence in _STEPS:
                if match := pattern.search(text):
                    latest = sentence.format(*match.groups())
        return latest


def core_settings(log: Path) -> dict[str, str | None]:
    """The settings that vLLM's engine core logged at startup, such as dtype and quantization."""
    for line in _lines(log, from_end=False):
        if match := _CORE_CONFIG.search(line):
            # The first of a name: later ones may belong to a setting of its own, as a quantization's dtype does.
            pairs = reversed(re.findall(r"(\w+)=([^,()]+)", match.group(1)))
            settings = {key: value.strip("'\"") for key, value in pairs}
            return {key: None if text == "None" else text.removeprefix("torch.") for key, text in settings.items()}
    return {}


def root_cause(log: Path) -> str:
    """At most three error lines of the log, without colours: the first ones, with advice by their cause; where no cause
    is known the last ones, which says so. Empty for an empty log."""
    lines = list(_without_tracker(_PREFIX.sub("", line).rstrip() for line in _lines(log, from_end=True)))
    errors: list[str] = []
    for index, line in enumerate(lines):
        if not (_EXCEPTION.match(line) or _FATAL.search(line)) or _SECONDARY.search(line):
            continue
        if line.endswith(":") or re.search(r"validation errors? for", line):
            line = " ".join([line, *(more.strip() for more in lines[index + 1 : index + 3])])
        if line not in errors:
            errors.append(line[:400])
    if errors and not _CONSEQUENCE.search(errors[0]):
        errors = [line for line in errors if not _CONSEQUENCE.search(line)]
    if known := known_cause(errors):
        return f"{' | '.join(dict.fromkeys([*errors[:2], known.line]))}; {known.advice}"
    errors = errors or [line.strip() for line in lines if line.strip() and not _SECONDARY.search(line)][-2:]
    return f"{_UNKNOWN}: {' | '.join(errors[-3:])}" if errors else ""


def _without_tracker(lines: Iterable[str]) -> Iterator[str]:
    """The lines that are not of Python's resource tracker: its warnings, and exceptions raised in it."""
    in_tracker = False
    for line in lines:
        tracker = bool(_TRACKER.search(line))
        if _FRAME.match(line):
            in_tracker = tracker
        elif not line.startswith(" "):
            was_in_tracker, in_tracker = in_tracker, False
            tracker = tracker or (was_in_tracker and bool(_EXCEPTION.match(line)))
        if not tracker and not in_tracker:
            yield line


def _lines(log: Path, *, from_end: bool) -> list[str]:
    try:
        with log.open("rb") as stream:
            if from_end:
                stream.seek(max(0, log.stat().st_size - _READ_BYTES))
            data = stream.read(_READ_BYTES)
    except OSError:
        return []
    return [printable(line) for line in re.split(r"[\r\n]+", data.decode(errors="replace"))]
