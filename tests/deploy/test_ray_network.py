"""deploy/ray: every port of a Ray node is fixed, and open to those who need it, or to nobody."""

import itertools
from typing import Any

import pytest

from tests.deploy.ray_manifest import DEPLOYMENT, HEAD, POLICIES, SERVE, SERVICE, WORKER, container, variables

Ports = set[tuple[int, int]]

# A node's own processes and the kubelet use these; they need no rule.
OF_THE_NODE_ITSELF = {"runtime-env-agent-port", "dashboard-agent-listen-port"}
REPLICAS = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
RAY = [{"podSelector": {"matchLabels": WORKER["template"]["metadata"]["labels"]}}]
NODES = pytest.mark.parametrize("group", [HEAD, WORKER], ids=["head", "worker"])


def numbers(group: dict[str, Any], left_out: set[str]) -> Ports:
    """The ports that Ray is told, each as a range, and those of the container."""
    told = {name: int(value) for name, value in group["rayStartParams"].items() if name.endswith("port")}
    workers = (told.pop("min-worker-port"), told.pop("max-worker-port"))
    named = told | {port["name"]: port["containerPort"] for port in container(group)["ports"]}
    return {workers} | {(port, port) for name, port in named.items() if name not in left_out}


def replicas(group: dict[str, Any]) -> tuple[int, int]:
    first, last = (int(variables(group)[name]) for name in REPLICAS)
    return first, last


def opened(policy: str) -> dict[str, Ports]:
    """Who is let in where: the peers of each rule, and its ports."""
    rules = POLICIES[policy]["ingress"]
    assert all(port["protocol"] == "TCP" for rule in rules for port in rule["ports"])
    return {
        str(rule["from"]): {(port["port"], port.get("endPort", port["port"])) for port in rule["ports"]}
        for rule in rules
    }


def test_the_head_is_open_to_its_workers_and_its_dashboard_to_the_operator() -> None:
    dashboard = int(HEAD["rayStartParams"]["dashboard-port"])
    operator = {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}}
    assert opened("elbod-ray-head") == {
        str(RAY): numbers(HEAD, OF_THE_NODE_ITSELF | {"dashboard", "dashboard-port", "serve"}),
        str([{"namespaceSelector": {}, "podSelector": operator}]): {(dashboard, dashboard)},
    }


def test_a_worker_is_open_to_ray_and_its_proxy_to_callers() -> None:
    port = SERVE["http_options"]["port"]
    callers = [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"elbod-callers": "allowed"}}}]
    assert opened("elbod-ray-worker") == {
        str(RAY): numbers(WORKER, OF_THE_NODE_ITSELF | {"serve"}) | {replicas(WORKER)},
        str(callers): {(port, port)},
    }


@pytest.mark.parametrize(("node", "group"), [("head", HEAD), ("worker", WORKER)])
def test_a_policy_closes_all_else_of_the_pods_that_it_is_for(node: str, group: dict[str, Any]) -> None:
    policy = POLICIES[f"elbod-ray-{node}"]
    assert policy["policyTypes"] == ["Ingress"]
    labels = group["template"]["metadata"]["labels"] | {"ray.io/node-type": node}
    assert policy["podSelector"]["matchLabels"] == labels


@NODES
def test_no_two_processes_of_a_node_want_one_port(group: dict[str, Any]) -> None:
    # What Ray opens besides, by its own defaults: its client, metrics, HAProxy's metrics and statistics.
    taken = sorted(numbers(group, set()) | {replicas(group)} | {(port, port) for port in (8080, 8404, 9101, 10001)})
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(taken))


def test_a_node_has_a_port_for_every_replica_that_it_may_hold_and_twice() -> None:
    first, last = replicas(WORKER)
    # The port of one that ended is not given away for minutes.
    assert last - first + 1 >= 2 * DEPLOYMENT["autoscaling_config"]["max_replicas"]
    assert replicas(HEAD) == replicas(WORKER)


def test_requests_come_to_workers_only_at_the_port_of_serve() -> None:
    assert SERVICE["spec"]["excludeHeadPodFromServeSvc"] is True
    for group in (HEAD, WORKER):
        (serve,) = [port for port in container(group)["ports"] if port["name"] == "serve"]
        assert serve["containerPort"] == SERVE["http_options"]["port"]


def test_what_is_declared_is_what_ray_is_told() -> None:
    declared = {port["name"]: str(port["containerPort"]) for port in container(HEAD)["ports"]}
    assert declared["gcs-server"] == HEAD["rayStartParams"]["port"]
    assert declared["dashboard"] == HEAD["rayStartParams"]["dashboard-port"]


def test_ray_knows_its_variables_and_its_own_ports() -> None:
    constants = pytest.importorskip("ray.serve._private.constants", reason="Ray is not installed: pip install '.[ray]'")
    for group in (HEAD, WORKER):
        assert all(hasattr(constants, name) for name in variables(group) if name.startswith("RAY_SERVE_"))
    declared = {port["name"]: port["containerPort"] for port in container(HEAD)["ports"]}
    assert declared["fallback"] == constants.RAY_SERVE_FALLBACK_PROXY_HTTP_PORT
    assert (constants.RAY_SERVE_HAPROXY_STATS_PORT, constants.RAY_SERVE_HAPROXY_METRICS_PORT) == (8404, 9101)


def test_ray_start_knows_what_it_is_told() -> None:
    scripts = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed: pip install '.[ray]'")
    known = {option.removeprefix("--") for parameter in scripts.start.params for option in parameter.opts}
    for group in (HEAD, WORKER):
        assert set(group["rayStartParams"]) <= known
