"""Where everything of the three hosts is: their names and addresses, and the folder they live in."""

import os
import sys
from pathlib import Path

HOSTS = ("jw1", "jw2", "jw3")
GPU_HOSTS = HOSTS[1:]
USER = "admin"

# What plays a host's PCI bus, and its GPU there.
BUS = "/opt/mlperf-standins/pci"
CARD = f"{BUS}/0000:01:00.0"

# One set of hosts at a time on a machine: the bridge, its addresses and this folder are the machine's, not the clone's.
FOLDER = Path(os.environ.get("MLPERF_HOSTS", "/var/tmp/mlperf-hosts"))
BRIDGE = "mlperf0"
CONTROLLER_ADDRESS = "10.213.77.1"
ADDRESSES = {name: f"10.213.77.{11 + number}" for number, name in enumerate(HOSTS)}
PREFIX = 24
PROXY_PORT = 8888
WEB_PORT = 8000
PROXY = f"http://{CONTROLLER_ADDRESS}:{PROXY_PORT}"
WEB = f"http://{CONTROLLER_ADDRESS}:{WEB_PORT}"

REPOSITORY = Path(__file__).resolve().parents[2]
NODE_ENVIRONMENT = Path(os.environ.get("MLPERF_NODE_ENV", REPOSITORY / ".mlperf" / "env"))
SANDBOX = NODE_ENVIRONMENT.parent / "sandbox"

LOCK = FOLDER / "lock"
SOCKET = FOLDER / "socket"
KEEPER_LOG = FOLDER / "keeper.log"
KEY = FOLDER / "key"
KNOWN_HOSTS = FOLDER / "known_hosts"
INVENTORY = FOLDER / "inventory"
WEB_ROOT = FOLDER / "web"


class CannotBoot(Exception):
    """This machine cannot boot the hosts; the message has the reason and what to do."""


def mounted_read_only() -> list[Path]:
    """Folders that every host sees at the same path: the installed environment, its Python, the sandbox.

    And what the control plane runs from: the double of the Kubernetes API, and the environment of the tests.
    """
    folders = [
        NODE_ENVIRONMENT,
        SANDBOX,
        NODE_ENVIRONMENT.parent / "punkt",
        Path(sys.prefix),
        REPOSITORY / "tests",
    ]
    for python in (NODE_ENVIRONMENT / "bin" / "python", Path(sys.executable)):
        if not python.resolve().is_relative_to("/usr"):
            folders.append(python.resolve().parents[1])
    return [path for path in dict.fromkeys(folders) if path.is_dir()]


def why_not() -> str:
    """Why hosts cannot be booted here, or an empty string."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    if sys.platform != "linux" or "ID=debian" not in release.splitlines():
        return "the three hosts boot on Debian only (they are debootstrapped from this machine's own apt sources)"
    if os.geteuid() != 0:
        return "the three hosts boot as root only (network namespaces, overlays, systemd-nspawn): run `sudo make long`"
    tools = {
        "debootstrap": "debootstrap",
        "systemd-nspawn": "systemd-container",
        "ip": "iproute2",
        "tinyproxy": "tinyproxy-bin",
        "dpkg-scanpackages": "dpkg-dev",
        "apt-ftparchive": "apt-utils",
        "gpg": "gpg",
        "ssh-keygen": "openssh-client",
        "setpriv": "util-linux",
    }
    folders = [Path(folder) for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin")]
    missing = [package for tool, package in tools.items() if not any((folder / tool).exists() for folder in folders)]
    return f"Debian packages are missing: apt-get install {' '.join(missing)}" if missing else ""
