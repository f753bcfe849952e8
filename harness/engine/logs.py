"""Read an engine's log: the current step of the start, the settings in effect, and the cause of a failure."""

import re
from pathlib import Path

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
_EXCEPTION = re.compile(r"^([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Failure|Interrupt)(: .*|$)")
_FATAL = re.compile(
    r"(died|exited) unexpectedly|^Killed$|Segmentation fault|terminate called after|Fatal Python error|"
    r"\berror: |No space left on device|Address already in use"
)
# Exceptions that only report another one.
_SECONDARY = re.compile(
    r"See root cause above|root cause\.?$|check the stack trace above|EngineDeadError|KeyboardInterrupt|SystemExit"
)
_ADVICE = (
    (
        re.compile(
            r"out of memory|OutOfMemory|No available memory|larger than the available KV cache|less than desired GPU",
            re.I,
        ),
        "lower max_num_seqs, free the GPU's memory, or change gpu_memory_utilization (kv_cache_gib on CPU)",
    ),
    (re.compile(r"(died|exited) unexpectedly"), "check dmesg for the kernel's OOM killer"),
    (re.compile(r"Address already in use", re.I), "choose another port"),
    (re.compile(r"No space left on device", re.I), "free some disk space"),
    (re.compile(r"unrecognized arguments|\berror: ", re.I), "correct extra_args"),
)
_READ_BYTES = 1 << 20


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
            settings = {key: value.strip("'\"") for key, value in re.findall(r"(\w+)=([^,()]+)", match.group(1))}
            return {key: None if text == "None" else text.removeprefix("torch.") for key, text in settings.items()}
    return {}


def root_cause(log: Path) -> str:
    """At most three lines of the log that name the cause of a failure, with advice; empty for an empty log."""
    lines = [_PREFIX.sub("", line).rstrip() for line in _lines(log, from_end=True)]
    causes: list[str] = []
    for index, line in enumerate(lines):
        if not (_EXCEPTION.match(line) or _FATAL.search(line)) or _SECONDARY.search(line):
            continue
        if line.endswith(":") or re.search(r"validation errors? for", line):
            line = " ".join([line, *(more.strip() for more in lines[index + 1 : index + 3])])
        if line not in causes:
            causes.append(line[:400])
    if not causes:
        causes = [line.strip() for line in lines if line.strip() and not _SECONDARY.search(line)][-2:]
    text = " | ".join(causes[:3])
    advice = next((advice for pattern, advice in _ADVICE if pattern.search(text)), None)
    return f"{text}; {advice}" if advice else text


def _lines(log: Path, *, from_end: bool) -> list[str]:
    try:
        with log.open("rb") as stream:
            if from_end:
                stream.seek(max(0, log.stat().st_size - _READ_BYTES))
            data = stream.read(_READ_BYTES)
    except OSError:
        return []
    return re.split(r"[\r\n]+", data.decode(errors="replace"))
