"""deploy/ray: what Serve and KubeRay are told is what they know, and agrees with elbod."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from elbod import __version__
from elbod.api import keys
from elbod.settings import Settings
from tests.deploy.composition import ROOT
from tests.deploy.ray_manifest import (
    APPLICATION,
    BUDGET,
    CLUSTER,
    DEPLOYMENT,
    HEAD,
    SERVE,
    SERVE_FILE,
    SERVICE,
    WORKER,
    container,
    pod,
    size,
    variables,
)
from tests.deploy.schemas.reduce import documents, reduce

KINDS = ("RayService", "NetworkPolicy", "PodDisruptionBudget")
SCHEMAS = {kind: json.loads((ROOT / f"tests/deploy/schemas/{kind.lower()}.json").read_text()) for kind in KINDS}
NODES = pytest.mark.parametrize("group", [HEAD, WORKER], ids=["head", "worker"])
README = (ROOT / "deploy/ray/README.md").read_text()


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(**APPLICATION["args"])


def test_serve_knows_every_option_and_takes_its_value() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed: pip install '.[ray]'")
    read = schema.ServeDeploySchema.model_validate(SERVE)
    # What Serve does not know it ignores in some places.
    assert read.model_dump(exclude_unset=True, mode="json") == SERVE


def test_the_application_is_elbods_and_is_alone_at_the_root() -> None:
    assert APPLICATION["import_path"] == "elbod.scale.serving:application"
    assert (APPLICATION["name"], APPLICATION["route_prefix"], DEPLOYMENT["name"]) == ("elbod", "/", "elbod")


def test_its_arguments_are_settings_of_elbod_which_ask_for_keys(settings: Settings) -> None:
    assert set(APPLICATION["args"]) <= settings.model_fields_set
    assert settings.keys_file is not None
    assert not settings.insecure
    with pytest.raises(ValueError, match="modle"):
        Settings(**APPLICATION["args"], modle="digits")


def test_kuberay_is_given_the_very_config_of_serve() -> None:
    title, _, text = SERVE_FILE.read_text().partition("\n")
    assert title.startswith("#")
    assert SERVICE["spec"]["serveConfigV2"] == text


@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_knows_every_field_and_takes_its_value(kind: str) -> None:
    assert documents(kind)
    for document in documents(kind):
        jsonschema.validate(document, SCHEMAS[kind])


@pytest.mark.parametrize(
    ("kind", "path", "key", "value"),
    [
        ("RayService", ("spec",), "serveConfigV3", "applications: []"),
        ("RayService", ("spec", "rayClusterConfig", "authOptions"), "mode", "tokens"),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec"), "runAsUser", 10001),
        ("NetworkPolicy", ("spec",), "ingres", []),
        ("PodDisruptionBudget", ("spec",), "minAvailable", None),
    ],
)
def test_a_field_or_a_value_that_kubernetes_does_not_know_is_noticed(
    kind: str, path: tuple[str, ...], key: str, value: object
) -> None:
    document = copy.deepcopy(documents(kind)[0])
    place: Any = document
    for name in path:
        place = place[name]
    place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMAS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_hold_what_the_manifest_uses_and_no_more(kind: str) -> None:
    assert reduce(SCHEMAS[kind], documents(kind), {}) == SCHEMAS[kind]


def test_a_replica_is_given_the_time_of_its_drain_a_node_that_of_its_replicas_and_a_pod_that_of_its_node(
    settings: Settings,
) -> None:
    node = float(variables(WORKER)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert settings.drain_timeout < DEPLOYMENT["graceful_shutdown_timeout_s"] < node
    assert node < pod(WORKER)["terminationGracePeriodSeconds"]


def test_the_workers_have_room_for_the_replicas_from_the_fewest_to_the_most(settings: Settings) -> None:
    limits = container(WORKER)["resources"]["limits"]
    each = int(limits["cpu"]) // DEPLOYMENT["ray_actor_options"]["num_cpus"]
    scale = DEPLOYMENT["autoscaling_config"]
    assert 0 < scale["min_replicas"] <= each * WORKER["minReplicas"]
    assert scale["max_replicas"] == each * WORKER["maxReplicas"]
    models = each * (settings.max_loaded_bytes + settings.max_queue_bytes)
    assert models + int(WORKER["rayStartParams"]["object-store-memory"]) < size(limits["memory"])
    assert HEAD["rayStartParams"]["num-cpus"] == "0"


def test_replicas_are_added_before_they_are_full_and_given_time_to_say_that_they_live() -> None:
    assert DEPLOYMENT["autoscaling_config"]["target_ongoing_requests"] < DEPLOYMENT["max_ongoing_requests"]
    # A worker of `elbod serve` has a minute as well.
    assert DEPLOYMENT["health_check_period_s"] < DEPLOYMENT["health_check_timeout_s"] == 60


def test_one_worker_may_be_evicted_at_a_time() -> None:
    assert isinstance(BUDGET["minAvailable"], int)
    assert 0 < BUDGET["minAvailable"] < WORKER["minReplicas"]
    labels = WORKER["template"]["metadata"]["labels"] | {"ray.io/node-type": "worker"}
    assert BUDGET["selector"]["matchLabels"] == labels


@NODES
def test_a_node_is_asked_whether_it_started_lives_and_is_ready_where_it_listens(group: dict[str, Any]) -> None:
    own = container(group)
    named = {port["name"]: port["containerPort"] for port in own["ports"]}
    dashboard_agent = int(group["rayStartParams"]["dashboard-agent-listen-port"])
    for probe in ("startupProbe", "livenessProbe"):
        assert own[probe]["httpGet"] == {"path": "/api/healthz", "port": dashboard_agent}
    ready = own["readinessProbe"]["httpGet"]
    assert named.get(ready["port"], ready["port"]) in named.values()


@NODES
def test_a_node_has_no_more_rights_than_it_needs(group: dict[str, Any]) -> None:
    spec, own = pod(group), container(group)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for context in (own["securityContext"], CLUSTER["autoscalerOptions"]["securityContext"]):
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert {"name": "tmp", "mountPath": "/tmp"} in own["volumeMounts"]
    assert {mount["name"] for mount in own["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert own["resources"]["limits"]["memory"] == own["resources"]["requests"]["memory"]


@NODES
def test_the_logs_of_a_node_fit_into_what_it_may_write(group: dict[str, Any]) -> None:
    told = variables(group)
    file = int(told["RAY_ROTATION_MAX_BYTES"]) * (1 + int(told["RAY_ROTATION_BACKUP_COUNT"]))
    (volume,) = [volume for volume in pod(group)["volumes"] if volume["name"] == "tmp"]
    # A node with two replicas writes some forty files.
    assert 80 * file < size(volume["emptyDir"]["sizeLimit"])


@NODES
def test_no_service_of_the_namespace_changes_a_setting(group: dict[str, Any]) -> None:
    assert pod(group)["enableServiceLinks"] is False
    assert not any(name.startswith("ELBOD_") for name in variables(group))


@NODES
def test_a_node_runs_the_image_of_this_version_without_telling_anybody(group: dict[str, Any]) -> None:
    assert container(group)["image"] == f"elbod-ray:{__version__}"
    assert variables(group)["RAY_USAGE_STATS_ENABLED"] == "0"
    assert variables(group)["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_ray_asks_for_a_token_which_is_a_secret() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "elbod-ray"}


def test_secrets_are_files_that_only_the_replicas_have(settings: Settings) -> None:
    assert not documents("Secret")
    assert [volume["name"] for volume in pod(HEAD)["volumes"]] == ["tmp"]
    (mount,) = [mount for mount in container(WORKER)["volumeMounts"] if mount["name"] == "secrets"]
    assert mount["readOnly"] is True
    files = [settings.keys_file, Path(variables(WORKER)["AWS_SHARED_CREDENTIALS_FILE"])]
    assert {str(file.parent) for file in files if file} == {mount["mountPath"]}
    secret = re.search(r"kubectl create secret generic elbod (.+)", README)
    assert secret
    assert {f"--from-file=secrets/{file.name}" for file in files if file} == set(secret[1].split())
    assert "kubectl create secret generic elbod-ray --from-literal=auth_token=" in README


def test_elbod_takes_the_keys_with_the_mode_that_they_are_mounted_with(tmp_path: Path) -> None:
    (volume,) = [volume for volume in pod(WORKER)["volumes"] if volume["name"] == "secrets"]
    path = tmp_path / "keys.json"
    keys.change(path, lambda present: present)
    path.chmod(volume["secret"]["defaultMode"])
    keys.read(path)
    # Kubernetes gives the file to root and to the group of the pod.
    assert volume["secret"]["defaultMode"] & 0o040
    assert pod(WORKER)["securityContext"]["fsGroup"] == pod(WORKER)["securityContext"]["runAsGroup"]
