"""The double of the Kubernetes API, through the official client as a benchmark uses it."""

import time
from typing import Any

import pytest
import urllib3
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.cluster import Cluster, scripts
from tests.unit.cluster_clients import Clients, Object, job, pod_spec, refused, soon


def config_map(name: str = "c", **more: Any) -> Object:
    return {"metadata": {"name": name}, "data": {"a": "1"}, **more}


def test_created_objects_have_system_metadata_and_unique_names(k8s: Clients) -> None:
    created = k8s.core.create_namespaced_config_map("mlperf", config_map())
    assert created.metadata.uid and created.metadata.creation_timestamp and int(created.metadata.resource_version) > 0
    body = refused(k8s.core.create_namespaced_config_map, "mlperf", config_map())
    assert (body["reason"], body["message"]) == ("AlreadyExists", 'configmaps "c" already exists')
    body = refused(k8s.core.read_namespaced_config_map, "d", "mlperf")
    assert (body["code"], body["message"]) == (404, 'configmaps "d" not found')
    assert body["details"] == {"name": "d", "kind": "configmaps"}
    body = refused(k8s.core.create_namespaced_config_map, "elsewhere", config_map())
    assert body["message"] == 'namespaces "elsewhere" not found'
    generated = k8s.core.create_namespaced_config_map("mlperf", {"metadata": {"generateName": "g-"}})
    assert len(generated.metadata.name) == len("g-") + 5


def test_a_dry_run_validates_and_stores_nothing(k8s: Clients) -> None:
    created = k8s.batch.create_namespaced_job("mlperf", job(), dry_run="All")
    assert created.spec.template.metadata.labels["batch.kubernetes.io/job-name"] == "j"
    assert k8s.batch.list_namespaced_job("mlperf").items == []
    bad = job(pod_spec(restartPolicy="Always"))
    assert refused(k8s.batch.create_namespaced_job, "mlperf", bad, dry_run="All")["code"] == 422


def test_conflicts_and_immutable_fields(k8s: Clients) -> None:
    old = k8s.core.create_namespaced_config_map("mlperf", config_map(immutable=True))
    body = refused(k8s.core.patch_namespaced_config_map, "c", "mlperf", {"data": {"a": "2"}})
    assert body["message"] == 'ConfigMap "c" is invalid: data: Forbidden: field is immutable when `immutable` is set'
    assert body["details"]["causes"][0]["field"] == "data"
    noted = {"metadata": {"annotations": {"x": "1"}}}
    new = k8s.core.patch_namespaced_config_map("c", "mlperf", noted)
    assert new.metadata.annotations == {"x": "1"} and new.metadata.resource_version != old.metadata.resource_version
    same = k8s.core.patch_namespaced_config_map("c", "mlperf", noted)
    assert same.metadata.resource_version == new.metadata.resource_version
    body = refused(k8s.core.replace_namespaced_config_map, "c", "mlperf", old)
    assert body["reason"] == "Conflict" and body["message"].startswith("Operation cannot be fulfilled on configmaps")
    k8s.batch.create_namespaced_job("mlperf", job(suspend=True))
    k8s.batch.patch_namespaced_job("j", "mlperf", {"spec": {"ttlSecondsAfterFinished": 86400}})
    assert k8s.job()["spec"]["ttlSecondsAfterFinished"] == 86400
    body = refused(k8s.batch.patch_namespaced_job, "j", "mlperf", {"spec": {"completions": 2}})
    assert body["message"] == 'Job.batch "j" is invalid: spec.completions: Invalid value: 2: field is immutable'


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"spec": {"nonsense": 1}}, 400, 'strict decoding error: unknown field "spec.nonsense"'),
        ({"spec": {"backoffLimit": "many"}}, 400, "cannot unmarshal string into Go struct field .spec.backoffLimit"),
        ({"metadata": {"name": "J_"}}, 422, "a lowercase RFC 1123 subdomain must consist of"),
        ({"metadata": {"name": "j", "labels": {"a": "x" * 64}}}, 422, "must be no more than 63 bytes"),
        ({"metadata": {"name": "j" * 64}}, 422, "spec.template.labels"),
    ],
)
def test_bad_jobs_are_refused(k8s: Clients, change: Object, code: int, message: str) -> None:
    bad_job = job()
    for part, values in change.items():
        bad_job[part] |= values
    body = refused(k8s.batch.create_namespaced_job, "mlperf", bad_job)
    assert body["code"] == code and message in body["message"]


def test_lists_have_selectors_and_pages_and_items_without_kind(k8s: Clients) -> None:
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        k8s.core.create_namespaced_config_map(
            "mlperf", config_map(name) | {"metadata": {"name": name, "labels": {"t": team}}}
        )
    names = lambda **more: [one.metadata.name for one in k8s.core.list_namespaced_config_map("mlperf", **more).items]  # noqa: E731
    assert names(label_selector="t=x") == ["a", "c"]
    assert names(label_selector="t in (y),t!=x") == ["b"]
    assert names(field_selector="metadata.name=b") == ["b"]
    page = k8s.core.list_namespaced_config_map("mlperf", limit=2)
    assert page.items[0].kind is None and len(page.items) == 2
    assert names(limit=2, _continue=page.metadata._continue) == ["c", "kube-root-ca.crt"]
    body = refused(k8s.core.list_namespaced_pod, "mlperf", field_selector="spec.colour=red")
    assert "field label not supported: spec.colour" in body["message"]


def test_patches_of_every_kind(k8s: Clients) -> None:
    k8s.core.create_namespaced_config_map("mlperf", config_map())
    steps = [{"op": "add", "path": "/data/b", "value": "2"}, {"op": "remove", "path": "/data/a"}]
    assert k8s.core.patch_namespaced_config_map("c", "mlperf", steps).data == {"b": "2"}
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"x": "y"}}
    apply = {"field_manager": "me", "_content_type": "application/apply-patch+yaml"}
    for _ in range(2):
        assert k8s.core.patch_namespaced_config_map("d", "mlperf", applied, **apply).data == {"x": "y"}
    listed = k8s.core.delete_collection_namespaced_config_map("mlperf", field_selector="metadata.name!=d")
    assert listed.metadata is not None
    assert [one.metadata.name for one in k8s.core.list_namespaced_config_map("mlperf").items] == ["d"]


def test_finalizers_of_claims_and_namespaces(cluster: Cluster, k8s: Clients) -> None:
    cluster.script("*", [scripts.Running()])
    cluster.claim("runs", None)
    spec = pod_spec(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "runs"}}])
    k8s.core.create_namespaced_pod("mlperf", {"metadata": {"name": "p"}, "spec": spec})
    soon(lambda: k8s.pods()[0]["status"]["phase"] == "Running")
    assert k8s.core.delete_namespaced_persistent_volume_claim("runs", "mlperf").metadata.deletion_timestamp
    time.sleep(0.1)
    assert k8s.core.list_namespaced_persistent_volume_claim("mlperf").items
    eviction = {"metadata": {"name": "p", "namespace": "mlperf"}}
    k8s.core.create_namespaced_pod_eviction("p", "mlperf", eviction)
    soon(lambda: not k8s.pods() and not k8s.core.list_namespaced_persistent_volume_claim("mlperf").items)
    k8s.core.delete_namespace("mlperf")
    soon(lambda: "mlperf" not in [one.metadata.name for one in k8s.core.list_namespace().items])


def test_a_watch_continues_after_the_list(k8s: Clients) -> None:
    listed = k8s.core.list_namespaced_config_map("mlperf")
    k8s.core.create_namespaced_config_map("mlperf", config_map("a") | {"metadata": {"name": "a", "labels": {"t": "x"}}})
    k8s.core.patch_namespaced_config_map("a", "mlperf", {"metadata": {"labels": {"t": "y"}}})
    k8s.core.delete_namespaced_config_map("a", "mlperf")
    since = {"resource_version": listed.metadata.resource_version, "timeout_seconds": 1, "label_selector": "t=x"}
    events = list(watch.Watch().stream(k8s.core.list_namespaced_config_map, "mlperf", **since))
    assert [event["type"] for event in events] == ["ADDED", "DELETED"]
    now = list(watch.Watch().stream(k8s.core.list_namespaced_config_map, "mlperf", timeout_seconds=1))
    assert [event["object"].metadata.name for event in now] == ["kube-root-ca.crt"]


def test_watches_break_and_expire(cluster: Cluster, k8s: Clients) -> None:
    for name in "ab":
        k8s.core.create_namespaced_config_map("mlperf", config_map(name))
    cluster.drop_watches(after=1)
    events = []
    with pytest.raises(urllib3.exceptions.ProtocolError):
        for event in watch.Watch().stream(k8s.core.list_namespaced_config_map, "mlperf", timeout_seconds=5):
            events.append(event)
    assert len(events) == 1
    old = k8s.core.list_namespaced_config_map("mlperf").metadata.resource_version
    since = {"resource_version": old, "timeout_seconds": 5}
    for in_stream in (True, False):
        cluster.expire(in_stream=in_stream)
        with pytest.raises(ApiException) as caught:
            list(watch.Watch().stream(k8s.core.list_namespaced_config_map, "mlperf", **since))
        assert caught.value.status == 410
    fresh = k8s.core.list_namespaced_config_map("mlperf").metadata.resource_version
    since = {"resource_version": fresh, "timeout_seconds": 1}
    assert list(watch.Watch().stream(k8s.core.list_namespaced_config_map, "mlperf", **since)) == []


def test_garbage_collection_by_owner(k8s: Clients) -> None:
    owner = k8s.core.create_namespaced_config_map("mlperf", config_map("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    owned = {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    k8s.core.create_namespaced_config_map("mlperf", owned)
    answer = k8s.core.delete_namespaced_config_map("owner", "mlperf", propagation_policy="Background")
    assert answer.status == "Success" and answer.details.uid == owner.metadata.uid
    soon(
        lambda: (
            [one.metadata.name for one in k8s.core.list_namespaced_config_map("mlperf").items] == ["kube-root-ca.crt"]
        )
    )
    body = {"preconditions": {"uid": "other"}}
    k8s.core.create_namespaced_config_map("mlperf", config_map("owner"))
    assert refused(k8s.core.delete_namespaced_config_map, "owner", "mlperf", body=body)["reason"] == "Conflict"


@pytest.mark.parametrize(("policy", "pod_count"), [(None, 1), ("Orphan", 1), ("Background", 0), ("Foreground", 0)])
def test_a_deleted_job_orphans_its_pod_by_default(
    cluster: Cluster, k8s: Clients, policy: str | None, pod_count: int
) -> None:
    cluster.script("*", [scripts.Running()])
    k8s.batch.create_namespaced_job("mlperf", job())
    soon(lambda: k8s.pods() and k8s.pods()[0]["status"]["phase"] == "Running")
    more = {"propagation_policy": policy} if policy else {}
    k8s.batch.delete_namespaced_job("j", "mlperf", **more)
    soon(lambda: k8s.batch.list_namespaced_job("mlperf").items == [] and len(k8s.pods()) == pod_count)
    assert all("ownerReferences" not in pod["metadata"] for pod in k8s.pods())


def test_rbac_rules(cluster: Cluster) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"], "resourceNames": []},
    ]
    some = Clients(cluster.user("runner", rules))
    user = "system:serviceaccount:mlperf:runner"
    body = refused(some.core.list_namespaced_pod, "mlperf")
    message = f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "mlperf"'
    assert (body["reason"], body["message"]) == ("Forbidden", message)
    body = refused(some.core.read_namespaced_pod_log, "p", "mlperf")
    assert f'pods "p" is forbidden: User "{user}" cannot get resource "pods/log"' in body["message"]
    body = refused(some.core.read_node, "n1")
    assert body["message"].endswith('cannot get resource "nodes" in API group "" at the cluster scope')
    assert refused(some.core.read_namespaced_pod, "p", "mlperf")["code"] == 404
    review = {
        "spec": {"resourceAttributes": {"verb": "create", "group": "batch", "resource": "jobs", "namespace": "mlperf"}}
    }
    reviews = client.AuthorizationV1Api(some.api)
    assert reviews.create_self_subject_access_review(review).status.allowed
    review["spec"]["resourceAttributes"]["verb"] = "delete"
    assert not reviews.create_self_subject_access_review(review).status.allowed
    assert cluster.rights_used(user) == {
        ("", "pods", "get"),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
    }
    assert ("", "pods/log", "get", "mlperf/p", False) in [
        (one.group, one.resource, one.verb, one.name, one.allowed) for one in cluster.requests
    ]
    assert refused(Clients(cluster.kubeconfig("unknown")).core.list_node)["reason"] == "Unauthorized"


@pytest.mark.parametrize(
    ("code", "reason"), [(429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable")]
)
def test_server_errors(cluster: Cluster, k8s: Clients, code: int, reason: str) -> None:
    cluster.fail(code, verb="list", resource="pods")
    assert refused(k8s.core.list_namespaced_pod, "mlperf")["reason"] == reason
    assert k8s.pods() == []


def test_an_unavailable_or_slow_server(cluster: Cluster, k8s: Clients) -> None:
    cluster.down()
    with pytest.raises(urllib3.exceptions.HTTPError):
        k8s.pods()
    cluster.up()
    assert k8s.pods() == []
    cluster.slow(1.0, verb="list")
    with pytest.raises(urllib3.exceptions.HTTPError):
        k8s.core.list_namespaced_pod("mlperf", _request_timeout=0.2)
    cluster.well()
    assert k8s.core.list_namespaced_pod("mlperf", _request_timeout=0.5).items == []


def test_custom_resources_and_discovery(k8s: Clients) -> None:
    custom = client.CustomObjectsApi(k8s.api)
    where = {"group": "batch.volcano.sh", "version": "v1alpha1", "namespace": "mlperf", "plural": "jobs"}
    created = custom.create_namespaced_custom_object(
        **where,
        body={
            "apiVersion": "batch.volcano.sh/v1alpha1",
            "kind": "Job",
            "metadata": {"name": "v"},
            "spec": {"tasks": [{"name": "t", "replicas": 0, "template": {"spec": {"containers": []}}}], "x": 1},
        },
    )
    assert (created["spec"]["x"], created["spec"]["queue"]) == (1, "default")
    assert (
        custom.get_namespaced_custom_object_status(**where, name="v")["metadata"]["uid"] == created["metadata"]["uid"]
    )
    assert custom.list_namespaced_custom_object(**where)["items"][0]["kind"] == "Job"
    assert client.VersionApi(k8s.api).get_code().minor == "36"
    assert "batch" in [group.name for group in client.ApisApi(k8s.api).get_api_versions().groups]
