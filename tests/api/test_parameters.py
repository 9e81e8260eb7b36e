"""Parameters in a path or a query have one spelling each, and are given once."""

from typing import Any

import httpx
import pytest


def refused(http: httpx.Client, address: str) -> dict[str, Any]:
    answer = http.get(address)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem: dict[str, Any] = answer.json()
    return problem


@pytest.mark.parametrize("text", ["1_0", "%2B1", "%201", "1%20", "01", "1.0", "1e1", "%D9%A1", "0x1", "", "null"])
@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/sample?seed={}", "seed"),
        ("/sample?num_samples={}", "num_samples"),
        ("/sample?first_index={}", "first_index"),
        ("/sample?model=labels&label={}", "label"),
        ("/models/levels/versions/1/calibration?num_samples={}", "num_samples"),
        ("/models/levels/versions/{}/calibration", "version"),
        ("/models/levels/versions/{}/reference", "version"),
        ("/models/levels/versions/{}", "version"),
    ],
)
def test_an_integer_is_plain_decimal(http: httpx.Client, address: str, name: str, text: str) -> None:
    if name == "version" and not text:
        pytest.skip("another address")
    assert [place["pointer"] for place in refused(http, address.format(text))["errors"]] == [f"/{name}"]


@pytest.mark.parametrize("text", ["1_0", "%2B1", "%201", "01", ".5", "1.", "inf", "nan", "0x1p3"])
def test_a_number_is_written_as_in_json(http: httpx.Client, text: str) -> None:
    assert [place["pointer"] for place in refused(http, f"/sample?temperature={text}")["errors"]] == ["/temperature"]


@pytest.mark.parametrize("temperature", ["0", "0.5", "1e-05", "2.5E%2B1"])
def test_plain_numbers_are_taken(http: httpx.Client, temperature: str) -> None:
    address = f"/sample?seed=10&first_index=0&num_samples=2&temperature={temperature}"
    assert http.get(address).raise_for_status().json()["seed"] == 10


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/sample?seed=1&seed=2", "seed"),
        ("/sample?seed=1&num_samples=1&seed=1", "seed"),
        ("/sample?model=levels&model=bits", "model"),
        ("/models/levels/versions/1/calibration?num_samples=1&num_samples=2", "num_samples"),
    ],
)
def test_a_parameter_that_is_given_twice_is_refused(http: httpx.Client, address: str, name: str) -> None:
    problem = refused(http, address)
    assert [place["pointer"] for place in problem["errors"]] == [f"/{name}"]
    assert problem["detail"] == f"{name} is given 2 times: give it once"
