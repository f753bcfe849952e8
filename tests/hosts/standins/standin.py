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

LOG = os.environ.get("STANDINS_LOG", "/var/log/standins.log")
TOKEN = "stand-in"
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


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
    """The API server does not answer."""


class Failed(Exception):
    """The API server's answer is an error; its words are those that kubectl prints."""

    def __init__(self, status):
        super().__init__(f"Error from server ({status.get('reason', 'Unknown')}): {status.get('message', '')}")
        self.code = status.get("code", 0)


class Api:
    """The API server, with objects and paths as Kubernetes has them."""

    def __init__(self, server, token=TOKEN):
        self.server, self._token = server, token

    def request(self, method, path, body=None, content="application/json"):
        """The answer; Failed or NoAnswer when there is none to use."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}{path}", method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                raise Failed(json.loads(text)) from None
            except ValueError:
                raise Failed({"code": error.code, "reason": "NotFound", "message": text.decode()}) from None
        except OSError as error:
            raise NoAnswer(
                f"The connection to the server {self.server.split('//')[1]} was refused - did you specify the "
                f"right host or port? ({error})"
            ) from error

    def find(self, path):
        """The object, or None when there is none."""
        try:
            return self.request("GET", path)
        except Failed as error:
            if error.code != 404:
                raise
            return None

    def versions(self):
        """Every apiVersion that is served."""
        groups = self.request("GET", "/apis")["groups"]
        return ["v1", *(version["groupVersion"] for group in groups for version in group["versions"])]

    def resources(self, version):
        """What discovery says of an apiVersion; nothing when it is not served."""
        resource_list = self.find(f"/api/{version}" if version == "v1" else f"/apis/{version}") or {"resources": []}
        return [{**one, "apiVersion": version} for one in resource_list["resources"] if "/" not in one["name"]]

    def apply(self, item, query=""):
        """Create or change an object as `kubectl apply --server-side` does; the object."""
        return self.request("PATCH", f"{self.path_of(item)}?fieldManager=stand-in&force=true{query}", item, APPLY)

    def path_of(self, item):
        """The path of an object; KeyError when its kind is not served."""
        for resource in self.resources(item["apiVersion"]):
            if resource["kind"] == item["kind"]:
                return path_of(resource, item["metadata"].get("namespace", "default"), item["metadata"]["name"])
        raise KeyError(item["kind"])


def path_of(resource, namespace="", name=""):
    """The path of a resource, of all namespaces when none is given, or of one object."""
    version = resource["apiVersion"]
    path = f"/api/{version}" if version == "v1" else f"/apis/{version}"
    path += f"/namespaces/{namespace}" if namespace and resource["namespaced"] else ""
    return f"{path}/{resource['name']}" + (f"/{name}" if name else "")


def named(version, kind, name, namespace="", **more):
    """An object with its name."""
    space = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **space}, **more}


def server_of(kubeconfig):
    """The API server's address in a kubeconfig."""
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
        f"current-context: {user}@kubernetes\nusers:\n- name: {user}\n  user: {{token: {TOKEN}}}\n"
    )


def hostname():
    """The name under which a node registers."""
    return socket.gethostname().lower()
