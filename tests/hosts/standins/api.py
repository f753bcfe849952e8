"""STAND-IN for the API server, for tests: a store of objects over plain HTTP. Nothing is scheduled or run."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STORE = "/var/lib/etcd/member/store.json"
STALE_S = 6
BUILT_IN_GROUPS = ("", "apps", "batch", "policy", "autoscaling")
NAMESPACED_NOT = {
    "Namespace",
    "Node",
    "PersistentVolume",
    "StorageClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "RuntimeClass",
    "CustomResourceDefinition",
    "PriorityClass",
    "APIService",
    "ValidatingWebhookConfiguration",
    "CSIDriver",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "IngressClass",
    "Installation",
    "APIServer",
    "Goldmane",
    "Whisker",
    "TigeraStatus",
}


class Store:
    """All objects by kind/namespace/name, and when each node was last heard of."""

    def __init__(self):
        self.lock = threading.RLock()
        self.heard = {}
        self.objects = {}
        if os.path.exists(STORE):
            with open(STORE, encoding="utf-8") as stream:
                self.objects = json.load(stream)
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.objects.setdefault(f"Namespace//{name}", named("v1", "Namespace", name))
        self.write()

    def write(self):
        """Keep it over restarts."""
        os.makedirs(os.path.dirname(STORE), exist_ok=True)
        with open(f"{STORE}.new", "w", encoding="utf-8") as stream:
            json.dump(self.objects, stream)
        os.replace(f"{STORE}.new", STORE)

    def refusal(self, given):
        """Why an object cannot be stored, as the real server says it."""
        group = given["apiVersion"].rpartition("/")[0]
        if group not in BUILT_IN_GROUPS and not group.endswith(".k8s.io"):
            kinds = [
                o["spec"]["names"]["kind"] for o in self.objects.values() if o["kind"] == "CustomResourceDefinition"
            ]
            if given["kind"] not in kinds:
                return f'no matches for kind "{given["kind"]}" in version "{given["apiVersion"]}"'
        space = given["metadata"].get("namespace")
        if space and f"Namespace//{space}" not in self.objects:
            return f'namespaces "{space}" not found'
        return ""

    def shown(self, key):
        """An object with the status that the controllers would give it."""
        found = json.loads(json.dumps(self.objects[key]))
        kind, name = found["kind"], found["metadata"]["name"]
        if kind == "Node":
            self.show_node(found, name)
        elif kind == "Job":
            found["status"] = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}
        elif kind == "Deployment":
            wanted = found.get("spec", {}).get("replicas", 1)
            found["status"] = {
                "availableReplicas": wanted,
                "readyReplicas": wanted,
                "updatedReplicas": wanted,
                "conditions": [{"type": "Available", "status": "True"}],
            }
        elif kind == "DaemonSet":
            count = len([o for o in self.objects.values() if o["kind"] == "Node"])
            found["status"] = {"desiredNumberScheduled": count, "numberReady": count, "updatedNumberScheduled": count}
        elif kind == "CustomResourceDefinition":
            found["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        elif kind == "Namespace":
            found["status"] = {"phase": "Active"}
        elif kind == "PersistentVolumeClaim":
            found["status"] = {"phase": "Bound"}
        elif kind in ("TigeraStatus", "Installation"):
            found["status"] = {
                "conditions": [{"type": "Available", "status": "True"}, {"type": "Ready", "status": "True"}]
            }
        return found

    def show_node(self, node, name):
        """Ready when its kubelet reports and there is a pod network; GPUs when everything they need is there."""
        kinds = {(o["kind"], o["metadata"]["name"]) for o in self.objects.values()}
        network = any(kind == "Installation" for kind, _ in kinds)
        alive = time.monotonic() - self.heard.get(name, {"at": -STALE_S})["at"] < STALE_S
        message = (
            "kubelet is posting ready status"
            if network
            else (
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network "
                "plugin returns error: cni plugin not initialized"
            )
        )
        ready = {
            "type": "Ready",
            "status": "True" if alive and network else "False" if alive else "Unknown",
            "message": message if alive else "Kubelet stopped posting node status.",
        }
        report = self.heard.get(name, {})
        version = report.get("version", node["metadata"].get("annotations", {}).get("stand-in/version", ""))
        gpus = report.get("gpus", 0)
        served = ("RuntimeClass", "nvidia") in kinds and any("device-plugin" in n for k, n in kinds if k == "DaemonSet")
        node["status"] = {
            "conditions": [ready],
            "nodeInfo": {"kubeletVersion": version},
            "addresses": [{"type": "InternalIP", "address": report.get("address", "")}],
            "allocatable": {"cpu": "2", "memory": "8Gi", **({"nvidia.com/gpu": str(gpus)} if served else {})},
        }

    def act(self, method, path, body):
        """(status, answer)."""
        if path == "/objects" and method == "GET":
            return 200, {key: self.shown(key) for key in self.objects}
        if path == "/objects" and method == "PUT":
            if reason := self.refusal(body["object"]):
                return 404, {"error": reason}
            self.objects[body["key"]] = body["object"]
        elif path == "/objects" and method == "DELETE":
            self.objects.pop(body["key"], None)
            if body["key"].startswith("Namespace//"):
                space = body["key"].split("/")[2]
                self.objects = {k: o for k, o in self.objects.items() if o["metadata"].get("namespace") != space}
        elif path == "/join":
            if f"Secret/kube-system/bootstrap-token-{body['token'].split('.')[0]}" not in self.objects:
                return 401, {"error": "Unauthorized"}
            config = self.objects["ConfigMap/kube-system/kubeadm-config"]["data"]
            return 200, {"version": config["version"], "kubelet": config["kubelet"]}
        elif path == "/register":
            node = named("v1", "Node", body["node"])
            node["metadata"]["labels"] = {"kubernetes.io/hostname": body["node"], **body.get("labels", {})}
            node["spec"] = {"taints": body.get("taints", [])}
            self.objects.setdefault(f"Node//{body['node']}", node)
            self.heard[body["node"]] = {**body, "at": time.monotonic()}
        elif path == "/heartbeat":
            self.heard[body["node"]] = {**body, "at": time.monotonic()}
            return 200, {}
        self.write()
        return 200, {}


def named(version, kind, name):
    """An object with nothing but its name."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def key_of(given):
    """The store's key of an object."""
    space = "" if given["kind"] in NAMESPACED_NOT else given["metadata"].get("namespace", "default")
    return f"{given['kind']}/{space}/{given['metadata']['name']}"


def serve(port):
    """Serve for ever, in threads."""
    store = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or "null")
            with store.lock:
                status, answer = store.act(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
