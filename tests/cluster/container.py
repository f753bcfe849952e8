"""Runs one container: a helper process of its own, which root starts as `python container.py` with orders on stdin.

It makes a mount, process and host name namespace, in it a root that is this machine's with a memory overlay, puts the
volumes in place, and runs the command there as its first process. It reports on stdout, a line each:
`pid N`, `failed TEXT`, `exit N`. When stdin ends, or its parent dies, everything in the container dies.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_NEWNS, _NEWUTS, _NEWPID = 0x00020000, 0x04000000, 0x20000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, operation: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{operation}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() or None)
    _check(_libc.mount(*words, flags, data.encode() or None), f"mount {source} at {target}")


def _die_with_parent() -> None:
    _libc.prctl(_PDEATHSIG, signal.SIGKILL)


def _root(folder: str) -> str:
    """A root whose changes are discarded; `folder` is empty."""
    _mount("none", "/", flags=_REC | _PRIVATE)
    others: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place not in ("/", "/proc") and not place.startswith(("/proc/", *(f"{other}/" for other in others))):
            others.append(place)
    _mount("tmpfs", folder, "tmpfs", data="mode=0755")
    for name in ("upper", "work", "root"):
        Path(folder, name).mkdir()
    root = f"{folder}/root"
    _mount("overlay", root, "overlay", data=f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work")
    for place in dict.fromkeys(others):
        if Path(place).is_dir() and Path(root + place).is_dir():
            _mount(place, root + place, flags=_BIND | _REC)
    return root


def _open_ways(root: str, places: list[str]) -> None:
    """Make some folders reachable for every user, as an image's are; this machine's own folders stay as they are."""
    for place in places:
        for folder in reversed(Path(place).parents):
            inside = Path(root + str(folder))
            if inside.stat().st_dev == Path(root).stat().st_dev and not inside.stat().st_mode & 0o001:
                inside.chmod(inside.stat().st_mode | 0o011)


def _place(root: str, mount: dict[str, Any]) -> None:
    source, target = Path(mount["source"] or "/"), Path(root + mount["target"])
    if mount["source"] and source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    else:
        target.mkdir(parents=True, exist_ok=True)
    if not mount["source"]:
        size = f",size={mount['size']}" if mount.get("size") else ""
        _mount("tmpfs", str(target), "tmpfs", data=f"mode=1777{size}")
        return
    _mount(str(source), str(target), flags=_BIND | _REC)
    if mount["read_only"]:
        _mount("none", str(target), flags=_BIND | _REMOUNT | _RDONLY)


def _keep(root: str, folder: str) -> None:
    """Mount a folder of this machine again that a mount above it hides."""
    if Path(folder).is_dir() and not Path(root + folder).exists():
        Path(root + folder).mkdir(parents=True)
        _mount(folder, root + folder, flags=_BIND | _REC)
        _mount("none", root + folder, flags=_BIND | _REMOUNT | _RDONLY)


def _become(orders: dict[str, Any], root: str) -> None:
    """The container's first process: never returns."""
    _mount("proc", f"{root}/proc", "proc")
    if orders["read_only"]:
        _mount("none", root, flags=_REMOUNT | _RDONLY | _BIND)
    log = os.open(orders["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chroot(root)
    os.chdir(orders["folder"])
    os.setsid()
    if orders["user"] is not None:
        os.setgroups(orders["groups"])
        os.setgid(orders["group"])
        os.setuid(orders["user"])
    _die_with_parent()
    os.umask(0o022)
    os.execvpe(orders["command"][0], orders["command"], orders["env"])


def main() -> int:
    """Run the container; returns 0 whatever the command's exit code."""
    _die_with_parent()
    orders = json.loads(sys.stdin.readline())
    failed_out, failed_in = os.pipe()
    try:
        _check(_libc.unshare(_NEWNS | _NEWUTS | _NEWPID), "unshare")
        socket.sethostname(orders["name"])
        root = _root(orders["root"])
        _open_ways(root, orders["ways"])
        for mount in sorted(orders["mounts"], key=lambda one: str(one["target"]).count("/")):
            _place(root, mount)
        for folder in orders["kept"]:
            _keep(root, folder)
    except OSError as error:
        print(f"failed {error}", flush=True)
        return 0
    child = os.fork()
    if child == 0:
        try:
            _become(orders, root)
        except FileNotFoundError:
            os.write(failed_in, f'exec: "{orders["command"][0]}": executable file not found in $PATH'.encode())
        except BaseException as error:
            os.write(failed_in, f'exec: "{orders["command"][0]}": {error}'.encode())
        os._exit(127)
    os.close(failed_in)
    failed = os.read(failed_out, 4096).decode(errors="replace")
    print(f"failed {failed}" if failed else f"pid {child}", flush=True)
    # A process that has made a process namespace can start no threads.
    over = os.pidfd_open(child)
    if over not in select.select([over, sys.stdin], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    print(f"exit {code if code >= 0 else 128 - code}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
