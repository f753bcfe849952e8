# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Why pip could not install a package: one sentence from its output, with what to do.

Nodes get this file as the module utility `mlperf_pip_failure`, and requirements/install.sh calls it where no package is
installed yet, so it uses only Python 3.9's standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

PYPI = "https://pypi.org/simple"
VERSION = "import platform; print('Python', platform.python_version(), 'on', platform.machine())"
MIRROR = (
    "set PIP_INDEX_URL to one that it reaches (on nodes in harness_pip_variables, in images in images_build_arguments)"
)
PINNED_FOR = "Python 3.11 to 3.13 on x86_64"
# A wheel's name ends with its Python, its ABI and its platform.
WHEEL = re.compile(r"-(cp3\d+)-(\w+)-(\w+)\.whl")
# The causes of a broken connection by pip's words, each with what to do.
CONNECTIONS = (
    (r"ProxyError|Tunnel connection failed|407 Proxy", "the proxy refuses it", "correct node_proxy"),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError", "its certificate is not trusted",
     "set PIP_CERT in harness_pip_variables to the file of its CA"),
    (r"Name or service not known|name resolution|Failed to resolve|Errno -[235]\b", "its name is not known", ""),
    (r"Connection refused|Errno 111", "connection refused", ""),
    (r"[Tt]imed? ?out", "no answer in time", ""),
    (r"unreachable|No route to host", "no route to it", ""),
    (r"", "the connection broke", ""),
)  # fmt: skip
REFUSED = re.compile(r"(?:HTTP error |WARNING: |ERROR: )(40[137]|5\d\d)\b.*?(https?://\S+)?")


def explain(output: Sequence[str], interpreter: str | None = None) -> str:
    """The cause in one sentence; empty where pip's output has none that is known.

    Args:
        output: lines of one or several calls of pip for the same package, each call after a line "$ COMMAND".
        interpreter: the Python that packages are installed for; it is asked for its version.
    """
    text = "\n".join(output)
    if "No space left on device" in text:
        target = re.search(r"No space left on device: '([^']+)'", text)
        where = f"the disk of {target[1]}" if target else "the disk of the environment, or of TMPDIR,"
        return f"{where} is full: free some space there (`df -h`), or set TMPDIR in harness_pip_variables"
    return _hashes(text, interpreter) or _unavailable(text, interpreter) or _not_built(text)


def _hashes(text: str, interpreter: str | None) -> str:
    """A file that is not the pinned one; pip takes one that is not pinned where no pinned one fits."""
    match = re.search(
        r"DO NOT MATCH THE HASHES[^\n]*\n\s*(\S+)(?: from (\S+))?.*?Expected sha256 (\w+).*?Got\s+(\w+)", text, re.S
    )
    if not match:
        return ""
    package, address, expected, got = match.groups()
    wheel = WHEEL.search(address or "")
    if wheel and not (wheel[3].endswith("x86_64") and (wheel[2] == "abi3" or wheel[1] in ("cp311", "cp312", "cp313"))):
        return (
            f"{package} has no pin for {_version(interpreter)} (but {wheel[0][1:]}): the pins are for {PINNED_FOR}. "
            "Install such a Python and name it in harness_python, or use a host with such a processor"
        )
    return (
        f"{package} from {address or 'the index'} is not the pinned file: its SHA-256 is {got}, and "
        f"{_count(text)} (first {expected}). A mirror or a proxy has another file, or has cut it: use the official "
        "index, or correct the mirror"
    )


def _count(text: str) -> str:
    count = len(re.findall(r"Expected\s+(?:sha256|or) \w+", text))
    return "one is allowed" if count == 1 else f"{count} others are allowed"


def _unavailable(text: str, interpreter: str | None) -> str:
    """A package that no source had, or whose source could not be reached."""
    package = (
        _first(r"(?:satisfies the requirement|No matching distribution found for) ([^\s(]+)", text)
        or _first(r"Cannot install ([^\s,]+) because", text)
        or _first(r"after connection broken by .*: \S*/([\w.-]+)/?$", text)
    )
    # An attempt with none left after it; those before may have been made good.
    broken = re.findall(r"Retry\(total=0,.*after connection broken by '(.*)': (\S+)", text)
    broken += re.findall(r"OSError: (.*Max retries exceeded.*)(\S*)", text)
    if not package and not broken:
        return ""
    subject = f"{package or 'a package'} for {_version(interpreter)}"
    places = _places(text)
    looked = f"looked for in {', '.join(places)}"
    if broken:
        cause, path = broken[-1]
        why, advice = next((why, advice) for pattern, why, advice in CONNECTIONS if re.search(pattern, cause))
        address = _address(places, path, cause)
        advice = advice or f"{_setting(text)}; behind a proxy set node_proxy"
        return f"{subject} cannot be downloaded: {address} cannot be reached ({why}); {looked}. To install it, {advice}"
    if host := _first(r"repository located at (\S+) is not a trusted", text):
        return (
            f"{subject} was not looked for: {host} has no https; set PIP_TRUSTED_HOST={host} in harness_pip_variables"
        )
    if refusal := REFUSED.search(text):
        return f"{subject} cannot be downloaded: HTTP {refusal[1]}; {looked}. Check the index's address and its login"
    if constraint := _first(r"\(constraint\) (\S+)", text):
        return (
            f"{subject} is not there, or pip's own settings forbid it by the constraint {constraint}; {looked}. "
            "`pip config list` on the host shows them: correct them, or set PIP_CONFIG_FILE=/dev/null in "
            "harness_pip_variables"
        )
    others = _first(r"\(from versions: ([^)]*)\)", text)
    offered = f"there is {others}" if others and others != "none" else "no file there fits this Python and processor"
    return (
        f"{subject} does not exist: {offered}; {looked}. The pins are for {PINNED_FOR} (harness_python); else "
        f"{_setting(text)}"
    )


def _not_built(text: str) -> str:
    """A package whose own build failed."""
    package = _first(r"(?:Failed to build|Failed building wheel for|Could not build wheels for) '?([\w.-]+)", text)
    reason = _first(r"^\s*((?:fatal )?error: (?!subprocess-exited|metadata-generation).*)$", text)
    return (
        f"{package} could not be built: {reason or 'see the log'}; apt-get install gcc g++ python3-dev"
        if package
        else ""
    )


def _places(text: str) -> list[str]:
    """The indexes and folders that pip looked in, in order."""
    places: list[str] = []
    for call in re.split(r"^\$ ", text, flags=re.M):
        shown = [
            part
            for line in re.findall(r"^Looking in (?:indexes|links): (.*)$", call, re.M)
            for part in line.split(", ")
        ]
        named = re.findall(r"--(?:index-url|extra-index-url|find-links)[ =](\S+)", call.partition("\n")[0])
        places += shown or named or ([PYPI] if "pip install" in call.partition("\n")[0] else [])
    return [re.sub(r"//[^/@]*@", "//", place) for place in dict.fromkeys(places)] or [PYPI]


def _address(places: list[str], path: str, cause: str) -> str:
    """The address that was not reached: the host in pip's words, or the index whose path it is."""
    if host := re.search(r"host='([^']+)'", cause):
        return host[1]
    folders = {place: re.sub(r"^\w+://[^/]*", "", place).rstrip("/") for place in places}
    fitting = [place for place, folder in folders.items() if folder and path.startswith(f"{folder}/")]
    return [*places, *fitting][-1]


def _setting(text: str) -> str:
    """What to set so that another index is used: PyTorch's own has a setting of its own."""
    return f"set harness_torch_index to an index of PyTorch's CPU wheels, or {MIRROR}" if "+cpu" in text else MIRROR


def _version(interpreter: str | None) -> str:
    """The Python and the processor that packages are for."""
    if interpreter:
        try:
            done = subprocess.run([interpreter, "-c", VERSION], capture_output=True, text=True, timeout=20, check=True)
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return "this Python"


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.M)
    return match[1] if match else ""


if __name__ == "__main__":
    cause = explain(["$ pip install", *sys.stdin.read().splitlines()], sys.executable)
    print(cause, end="\n" if cause else "")
