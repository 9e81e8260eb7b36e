"""deploy/ray, as tests read it."""

from typing import Any

from ruamel.yaml import YAML

from tests.deploy.composition import ROOT
from tests.deploy.schemas.reduce import documents

SERVE_FILE = ROOT / "deploy/ray/serve.yaml"
SERVE: dict[str, Any] = YAML(typ="safe", pure=True).load(SERVE_FILE)
(APPLICATION,) = SERVE["applications"]
(DEPLOYMENT,) = APPLICATION["deployments"]

(SERVICE,) = documents("RayService")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
HEAD = CLUSTER["headGroupSpec"]
(WORKER,) = CLUSTER["workerGroupSpecs"]
POLICIES = {document["metadata"]["name"]: document["spec"] for document in documents("NetworkPolicy")}
(BUDGET,) = (document["spec"] for document in documents("PodDisruptionBudget"))


def pod(group: dict[str, Any]) -> dict[str, Any]:
    """The pod of the head or of a group of workers."""
    return group["template"]["spec"]  # type: ignore[no-any-return]


def container(group: dict[str, Any]) -> dict[str, Any]:
    """Its only container, Ray's."""
    (found,) = pod(group)["containers"]
    return found  # type: ignore[no-any-return]


def variables(group: dict[str, Any]) -> dict[str, str]:
    """The environment that its container is given."""
    return {variable["name"]: variable["value"] for variable in container(group)["env"]}


def size(text: str) -> int:
    """Bytes of a quantity that is written in Mi or Gi."""
    return int(text[:-2]) * {"Mi": 1024**2, "Gi": 1024**3}[text[-2:]]
