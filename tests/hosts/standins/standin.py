"""STAND-IN, for tests: what the stand-ins share."""

import argparse
import contextlib
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request

LOG = "/var/log/standins.log"


def record(name, argv):
    """Write a call down, for the tests to look at."""
    with contextlib.suppress(PermissionError), open(LOG, "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"unix": time.time(), "command": name, "arguments": argv}) + "\n")


class Arguments(argparse.ArgumentParser):
    """A parser that takes documented flags only, unabbreviated, and complains as the real commands do."""

    def __init__(self, *words, **more):
        more.setdefault("allow_abbrev", False)
        super().__init__(*words, **more)

    def error(self, message):
        """Exit as cobra does."""
        sys.exit(f"error: {message}\nSee '{self.prog} --help' for usage.")

    def flags(self, values="", switches=""):
        """Flags that take a value, and switches that may take =true or =false."""
        for names in values.split():
            self.add_argument(*names.split("|"), action="append", default=[])
        for names in switches.split():
            self.add_argument(*names.split("|"), nargs="?", const="true", default="false", choices=["true", "false"])
        return self


def split_switches(argv, switches):
    """`--force name` must not take the name as its value: give every bare switch its =true."""
    names = {name for names in switches.split() for name in names.split("|")}
    return [f"{word}=true" if word in names and word.startswith("--") else word for word in argv]


class NoAnswer(Exception):
    """The API does not answer."""


def call(server, method, path, body=None):
    """(status, answer) of the API."""
    request = urllib.request.Request(f"{server}{path}", method=method, data=json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError as error:
        raise NoAnswer(
            f"The connection to the server {server.split('//')[1]} was refused - did you specify the "
            f"right host or port? ({error})"
        ) from error


def server_of(kubeconfig):
    """The API's address in a kubeconfig."""
    try:
        with open(kubeconfig, encoding="utf-8") as stream:
            return next(line.split("server:")[1].strip() for line in stream if "server:" in line)
    except (OSError, StopIteration):
        sys.exit(f"error: stat {kubeconfig}: no such file or directory")


def write(path, content, mode=0o600):
    """A file with its folders."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
        stream.write(content)


def kubeconfig(server, user):
    """A kubeconfig as far as a stand-in needs one."""
    return (
        f"# STAND-IN\napiVersion: v1\nkind: Config\nclusters:\n- name: kubernetes\n  cluster:\n    server: {server}\n"
        f"contexts:\n- name: {user}@kubernetes\n  context: {{cluster: kubernetes, user: {user}}}\n"
        f"current-context: {user}@kubernetes\nusers:\n- name: {user}\n  user: {{token: stand-in}}\n"
    )


def hostname():
    """The name under which a node registers."""
    return socket.gethostname().lower()
