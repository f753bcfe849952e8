"""Swap is turned off where it comes from, each source shown in the diff, and comes back exactly as it was."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ansible_modules import call, load

UNITS = {
    "dev-zram0.swap": "FragmentPath=/run/systemd/generator/dev-zram0.swap\nSourcePath=/etc/systemd/zram.conf",
    "dev-sda3.swap": "FragmentPath=/run/systemd/generator.late/dev-sda3.swap\nSourcePath=",
    "swap.img.swap": "FragmentPath=/run/systemd/generator/swap.img.swap\nSourcePath=/etc/fstab",
    "dev-zram1.swap": "FragmentPath=\nSourcePath=",  # in use, made by a service
    "own.swap": "FragmentPath=/etc/systemd/system/own.swap\nSourcePath=",
    "zramswap.service": "",
    "ssh.service": "",
}


class Host:
    """A host of temporary folders, with a stand-in of systemctl that makes and removes masks."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.units = folder, folder / "system"
        for name in ("bin", "system", "cloud.cfg.d", "shown"):
            (folder / name).mkdir()
        for unit, text in UNITS.items():
            (folder / "shown" / unit).write_text(f"{text}\n")
        (self.units / "own.swap").write_text("[Swap]\n")
        (folder / "enabled").write_text("enabled")
        (folder / "fstab").write_text("UUID=1 / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n")
        (folder / "swaps").write_text("Filename Type\n/dev/zram0 partition\n")
        (folder / "bin/swapoff").write_text(f"#!/bin/sh\necho Filename > {folder}/swaps\n")
        (folder / "bin/swapon").write_text("#!/bin/sh\n")
        (folder / "bin/systemctl").write_text(
            textwrap.dedent(f"""\
                #!{sys.executable}
                import os, pathlib, sys
                verb, unit = sys.argv[1], sys.argv[-1]
                here, mask = pathlib.Path("{folder}"), pathlib.Path("{self.units}", unit)
                if verb.startswith("list-"):
                    print("\\n".join(f"{{path.name}} loaded" for path in (here / "shown").iterdir()))
                elif verb == "is-enabled":
                    print((here / "enabled").read_text())
                elif verb == "show":
                    print((here / "shown" / unit).read_text())
                else:
                    (here / "calls").open("a").write(f"{{verb}} {{unit}}\\n")
                    if verb == "mask":
                        mask.symlink_to("/dev/null")
                    elif verb == "unmask":
                        mask.unlink()
                    elif verb in ("enable", "disable"):
                        (here / "enabled").write_text(f"{{verb}}d")
                """)
        )
        for program in (folder / "bin").iterdir():
            program.chmod(0o755)
        patch.setenv("PATH", str(folder / "bin"), prepend=":")

        def moved(name: str, kind: str = "modules") -> Any:
            module = load(name, kind)
            module.UNITS, module.RECORD = str(self.units), str(folder / "record")
            module.CLOUD_CONFIG = str(folder / "cloud.cfg.d/99-mlperf-swap.cfg")
            module.USER_CONFIG = str(folder / "cloud-config.txt")
            return module

        patch.setattr("tests.unit.ansible_modules.load", moved)

    def swap(self, state: str, *, check: bool = False) -> dict[str, Any]:
        places = {"fstab": str(self.folder / "fstab"), "swaps": str(self.folder / "swaps")}
        return call("mlperf_swap", {"state": state, **places}, check=check)

    def masked(self) -> set[str]:
        return {path.name for path in self.units.iterdir() if path.is_symlink()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


SOURCES = ["mask dev-sda3.swap", "mask dev-zram0.swap", "disable own.swap", "mask zramswap.service"]


def test_every_source_is_shown_before_it_is_turned_off(host: Host) -> None:
    checked = host.swap("absent", check=True)
    assert checked["changed"] and host.masked() == set()
    after = checked["diff"]["after"].splitlines()
    assert after[:-1] == ["#mlperf# /swap.img none swap sw 0 0", "swap.target masked", *SOURCES]
    assert after[-1].endswith("99-mlperf-swap.cfg")
    assert "in use: /dev/zram0" in checked["diff"]["before"]


def test_sources_are_turned_off_once_and_come_back(host: Host) -> None:
    before = (host.folder / "fstab").read_text()
    assert host.swap("absent")["changed"] is True
    assert host.masked() == {"swap.target", "dev-sda3.swap", "dev-zram0.swap", "zramswap.service"}
    assert "swap: {size: 0}" in (host.folder / "cloud.cfg.d/99-mlperf-swap.cfg").read_text()
    assert "ssh.service" not in (host.folder / "calls").read_text()
    assert host.swap("absent")["changed"] is False
    assert host.swap("present")["changed"] is True
    assert host.masked() == set() and (host.folder / "fstab").read_text() == before
    assert "enable own.swap" in (host.folder / "calls").read_text()
    assert list((host.folder / "cloud.cfg.d").iterdir()) == [] and not (host.folder / "record").exists()
    assert host.swap("present")["changed"] is False


def test_swap_in_the_clouds_user_data_is_warned_of(host: Host) -> None:
    assert "warnings" not in host.swap("absent", check=True)
    (host.folder / "cloud-config.txt").write_text("#cloud-config\nswap:\n  size: 1G\n")
    assert "take it out there" in host.swap("absent", check=True)["warnings"][0]


def test_swap_without_a_known_source_is_warned_of(host: Host) -> None:
    assert host.swap("absent")["changed"] is True
    (host.folder / "swaps").write_text("Filename Type\n/var/mine file\n")
    again = host.swap("absent")
    assert again["changed"] is True
    assert "swap is in use (/var/mine) that no known source" in again["warnings"][0]
