"""What is known of a cluster before it works, without one."""

import pytest

from elbod.errors import StartupError
from elbod.scale import cluster
from elbod.scale.cluster import Cluster, agreed, last_line, uses_gpu
from tests.support import free_ports


def test_nodes_of_one_fingerprint_agree() -> None:
    assert agreed({"10.0.0.1:7": "f", "10.0.0.2:7": "f"}) == "f"


def test_two_nodes_that_differ_are_named_with_both_fingerprints_and_a_way_out() -> None:
    with pytest.raises(StartupError, match=r"node 10\.0\.0\.3:7 computes as g, node 10\.0\.0\.1:7 as f.*ATEN_CPU_CAP"):
        agreed({"10.0.0.1:7": "f", "10.0.0.2:7": "f", "10.0.0.3:7": "g"})


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, False), ("auto", 4, True), ("cpu", 4, False), ("cuda", 4, True), ("cuda:0", 1, True)],
)
def test_a_process_gets_a_gpu_when_it_is_asked_for_or_there(device: str, gpus: int, expected: bool) -> None:
    assert uses_gpu(Cluster("", {}, {}, 8, gpus), device) is expected


def test_a_gpu_that_no_node_has_is_refused() -> None:
    with pytest.raises(StartupError, match="--device cuda: no node of the cluster has a GPU"):
        uses_gpu(Cluster("", {}, {}, 8, 0), "cuda")


def test_of_a_long_error_the_last_line_is_said() -> None:
    assert last_line(RuntimeError("Traceback:\n  File x\nValueError: the reason\n\n")) == "ValueError: the reason"
    assert last_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_nobody_answers_for_is_named(address: str) -> None:
    address = address.format(free_ports(1)[0])
    with pytest.raises(StartupError, match=rf"cannot reach the Ray cluster at {address} \(RAY_ADDRESS\): Connection"):
        cluster._reach(address)


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_other_addresses_are_for_ray_to_find(address: str) -> None:
    cluster._reach(address)
