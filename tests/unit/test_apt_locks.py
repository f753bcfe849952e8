"""Another process that has apt's locks is waited for, shown meanwhile, and named when it takes too long."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ansible.plugins.loader import action_loader

from tests.conftest import REPOSITORY
from tests.unit.ansible_modules import Failed, call, load

LISTS = (
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812 (apt-get)\n"
    "E: Unable to lock directory /var/lib/apt/lists/\n"
)
FRONTEND = (
    "Waiting for cache lock: "
    "Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 17 (unattended-upgr)\n"
    "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?\n"
)
DPKG = "dpkg: error: dpkg frontend lock was locked by another process with pid 17\n"
BASE = action_loader.get("mlperf_apt_base", class_only=True).work.__globals__


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tasks show, without pauses between their looks."""
    shown: list[str] = []
    monkeypatch.setitem(BASE, "PAUSE_S", 0.0)
    monkeypatch.setattr(BASE["display"], "display", lambda line, **_: shown.append(line))
    return shown


def apt(folder: Path, patch: pytest.MonkeyPatch, *answers: tuple[int, str], installed: str = "") -> Path:
    """A stand-in of apt-get that gives one answer after the other, the last one for ever; its file of calls."""
    (folder / "bin").mkdir()
    (folder / "answers").write_text(json.dumps(answers))
    (folder / "bin/apt-get").write_text(
        textwrap.dedent(f"""\
            #!{sys.executable}
            import json, pathlib, sys
            calls = pathlib.Path("{folder}/calls")
            number = len(calls.read_text().splitlines()) if calls.exists() else 0
            verb = next(word for word in sys.argv[1:] if not word.startswith("-"))
            calls.open("a").write(verb + chr(10))
            answers = json.loads(pathlib.Path("{folder}/answers").read_text())
            code, text = answers[min(number, len(answers) - 1)]
            sys.stderr.write(text)
            sys.exit(code)
            """)
    )
    (folder / "bin/dpkg-query").write_text(f"#!/bin/sh\nprintf '{installed}'\n")
    for program in (folder / "bin").iterdir():
        program.chmod(0o755)
    patch.setenv("PATH", str(folder / "bin"), prepend=":")
    return folder / "calls"


PACKAGES: dict[str, Any] = {"packages": {"kubelet": ""}}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (LISTS, "process 812 (apt-get) holds /var/lib/apt/lists/lock"),
        (FRONTEND, "process 17 (unattended-upgr) holds /var/lib/dpkg/lock-frontend"),
        (DPKG, "process 17 (unknown) holds frontend lock"),
        (
            "E: Could not get lock /var/lib/dpkg/lock - open (11: Resource temporarily unavailable)\n",
            "/var/lib/dpkg/lock",
        ),
    ],
)
def test_a_lock_is_waited_for_and_its_holder_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], words: str, shown: str
) -> None:
    calls = apt(tmp_path, monkeypatch, (100, words), (100, words), (0, ""))
    assert call("mlperf_packages", PACKAGES, variables={"inventory_hostname": "jw2"})["changed"] is True
    # A locked apt is not asked to update its lists, and no version is blamed.
    assert calls.read_text().split() == ["install"] * 3
    assert [line.startswith("jw2  waiting for apt: ") and shown in line for line in lines] == [True, True]


def test_lists_that_are_locked_during_the_update_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    calls = apt(tmp_path, monkeypatch, (100, "E: Unable to locate package kubelet\n"), (100, LISTS), (0, ""))
    assert call("mlperf_packages", PACKAGES)["changed"] is True
    assert calls.read_text().split() == ["install", "update", "install"]
    assert len(lines) == 1


def test_reading_the_lists_alone_waits_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    calls = apt(tmp_path, monkeypatch, (100, LISTS), (0, ""))
    assert call("mlperf_packages", {"packages": {}, "update": True})["versions"] == {}
    assert calls.read_text().split() == ["update", "update"] and len(lines) == 1


def test_lists_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt(tmp_path, monkeypatch, (100, "E: The repository 'file:/srv/x' does not have a Release file.\n"))
    with pytest.raises(
        Failed, match=r"apt-get update: The repository 'file:/srv/x' does not have a Release file\.; correct"
    ):
        call("mlperf_packages", {"packages": {}, "update": True})
    assert call("mlperf_packages", {"packages": {}, "update": True}, check=True)["changed"] is False


def test_the_name_of_a_holder_is_shown_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    apt(tmp_path, monkeypatch, (100, LISTS.replace("apt-get", "\x1b[2Japt\x07")), (0, ""))
    call("mlperf_packages", PACKAGES)
    assert "process 812 (apt\ufffd) holds" in lines[0]


def test_after_its_limit_the_holder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    apt(tmp_path, monkeypatch, (100, LISTS))
    monkeypatch.setitem(BASE, "LIMIT_S", -1)
    with pytest.raises(
        Failed, match=r"jw2: apt cannot be used: process 812 \(apt-get\) holds .*lists/lock.*systemctl stop"
    ):
        call("mlperf_packages", PACKAGES, variables={"inventory_hostname": "jw2"})


def test_a_repository_waits_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    def moved(name: str, kind: str = "modules") -> Any:
        module = load(name, kind)
        module.SOURCES, module.KEYRINGS = str(tmp_path / "sources"), str(tmp_path / "keyrings")
        return module

    monkeypatch.setattr("tests.unit.ansible_modules.load", moved)
    calls = apt(tmp_path, monkeypatch, (100, LISTS), (0, ""))
    assert call("mlperf_apt_repository", {"name": "k", "uri": "http://192.0.2.1/k/"})["changed"] is True
    assert calls.read_text().split() == ["update", "update"]
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("failures", "words", "code", "shown"),
    [
        (0, "", 0, ""),
        (2, LISTS, 0, "Waiting for apt: E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812"),
        (99, LISTS, 1, "still locked after 2 minutes: E: Could not get lock /var/lib/apt/lists/lock"),
        (99, "E: The repository is not signed.\n", 1, "E: The repository is not signed."),
    ],
)
def test_unpacking_a_package_waits_for_the_lock_of_the_lists(
    tmp_path: Path, failures: int, words: str, code: int, shown: str
) -> None:
    programs = {
        # What cannot be downloaded before the lists are there; each look at them is noted.
        "apt-get": f"""
            case "$2" in
            download) [ -e {tmp_path}/updated ] && touch "$3_1_all.deb" ;;
            update)
              echo update >> {tmp_path}/calls
              [ $(wc -l < {tmp_path}/calls) -gt {failures} ] && exec touch {tmp_path}/updated
              cat {tmp_path}/words >&2; exit 100 ;;
            esac""",
        "id": "echo 0",
        "sleep": f"echo sleep >> {tmp_path}/pauses",
        "dpkg": "touch unpacked",
    }
    (tmp_path / "bin").mkdir()
    (tmp_path / "words").write_text(words)
    for name, script in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["sh", str(REPOSITORY / "requirements/deb.sh"), "libnuma1", str(tmp_path / "there")],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, (tmp_path / "there/unpacked").exists()) == (code, code == 0), done.stderr
    assert shown in done.stderr and done.stderr.count("Waiting for apt") == (words == LISTS)
    pauses = (tmp_path / "pauses").read_text().split() if (tmp_path / "pauses").exists() else []
    assert len(pauses) == (0 if words != LISTS else min(failures, 23))
