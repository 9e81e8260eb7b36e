"""Labels of conditional models: what is sent, what is refused before it is sent, and what a real server makes of it."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from elbod_client import Client, InvalidInput, InvalidResponse, Scores
from tests.elbod_client.scripted import ORIGIN, SAFETENSORS, SAMPLES, Reply, answering
from tests.elbod_client.scripted import safetensors as by_hand

X = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)
POSTERIOR = by_hand({**ORIGIN, "posterior": {"family": "normal", "closed_form": True}}, {})
SUMMARY = {"mean": -1.0, "standard_error": None, "monte_carlo_standard_error": None, "n": 1}
SCORED = {
    **ORIGIN,
    "summary": SUMMARY,
    "likelihood": "bernoulli",
    "measure": "pmf",
    "units": "nats",
    "event_dims": 2,
    "kl_estimator": "closed_form",
    "gap_kind": None,
    "num_samples": 1,
    "num_importance_samples": 0,
}


def scores_body(**fields: object) -> bytes:
    columns = ("elbo", "reconstruction", "kl", "log_joint", "entropy")
    return by_hand({**SCORED, **fields}, {name: ("F64", [1], struct.pack("<d", -1.0)) for name in columns})


Verb = Callable[[Client, Any], object]
VERBS: dict[str, tuple[Verb, bytes]] = {
    "sample": (lambda client, label: client.sample(3, label=label), SAMPLES),
    "sample of x": (lambda client, label: client.sample(x=X, label=label), SAMPLES),
    "sample of z": (lambda client, label: client.sample(z=np.zeros((3, 1)), label=label), SAMPLES),
    "encode": (lambda client, label: client.encode(X, label=label), POSTERIOR),
    "elbo": (lambda client, label: client.elbo(X, label=label), scores_body()),
}
each_verb = pytest.mark.parametrize(("verb", "answer"), VERBS.values(), ids=VERBS)


def sent(verb: Verb, answer: bytes, label: Any) -> dict[str, Any]:
    """The tensors of the request, as the reference implementation reads them."""
    with answering(Reply(200, answer, SAFETENSORS)) as script, Client(script.url) as client:
        verb(client, label)
    tensors: dict[str, Any] = safetensors.numpy.load(script.asked[0].body)
    return tensors


@each_verb
@pytest.mark.parametrize(
    "label",
    [
        [0, 1, 2],
        (0, 1, 2),
        [np.int64(0), np.uint8(1), 2],
        np.array([0, 1, 2], np.uint8),
        np.array([0, 1, 2], np.uint64),
        np.array([0, 1, 2], ">i4"),
        np.array([0, 9, 1, 9, 2, 9])[::2],
        3,
        np.int16(3),
        np.array(3),
        2**63 - 1,
    ],
    ids=repr,
)
def test_labels_are_sent_as_an_int64_tensor_of_their_shape(verb: Verb, answer: bytes, label: Any) -> None:
    tensor = sent(verb, answer, label)["label"]
    assert tensor.dtype == np.int64
    assert tensor.shape == np.shape(label)
    assert tensor.tolist() == np.asarray(label).tolist()


@each_verb
def test_without_a_label_none_is_sent(verb: Verb, answer: bytes) -> None:
    assert "label" not in sent(verb, answer, None)


def test_labels_leave_the_other_tensors_as_they_are() -> None:
    tensors = sent(*VERBS["encode"], [2, 0, 1])
    assert tensors.keys() == {"x", "label"}
    np.testing.assert_array_equal(tensors["x"], X)


def test_labels_alone_say_how_many_rows_are_drawn() -> None:
    with answering(Reply(200, SAMPLES, SAFETENSORS)) as script, Client(script.url) as client:
        client.sample(label=[4, 5])
    assert b"num_samples" not in script.asked[0].body
    assert safetensors.numpy.load(script.asked[0].body)["label"].tolist() == [4, 5]


@each_verb
@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (1.0, TypeError, "label has dtype float64: class numbers are integers"),
        ([0, 1, 2.0], TypeError, "label has dtype float64"),
        (np.zeros(3, np.float32), TypeError, "label has dtype float32"),
        (True, TypeError, "label has dtype bool"),
        (np.ones(3, bool), TypeError, "label has dtype bool"),
        ([0, 1, True], TypeError, r"label\[2\] is a boolean"),
        ([0, np.False_, 1], TypeError, r"label\[1\] is a boolean"),
        ("cat", TypeError, "label has dtype <U3"),
        ([0, None, 1], TypeError, "label has dtype object"),
        (2**64, TypeError, "label has dtype object"),
        (2**63, TypeError, "label has dtype uint64 and a value of 9223372036854775808"),
        (np.ma.masked_array([0, 1, 2], [True, False, False]), TypeError, "label is a masked array"),
        (-1, ValueError, "label is -1: class numbers begin at 0"),
        ([0, -3, -1], ValueError, r"label\[1\] is -3: class numbers begin at 0"),
        ([], ValueError, r"label has shape \(0,\)"),
        ([0, 1], ValueError, r"label has shape \(2,\): .* one class number for all rows, or 3 of them"),
        ([[0, 1, 2]], ValueError, r"label has shape \(1, 3\)"),
        ([[0], [1], [2]], ValueError, r"label has shape \(3, 1\)"),
        ([[0], [1, 2]], ValueError, "label cannot be read as an array"),
    ],
)
def test_what_is_no_class_number_for_each_row_is_refused_with_its_place(
    verb: Verb, answer: bytes, label: Any, error: type[Exception], message: str
) -> None:
    with answering(Reply(200, answer, SAFETENSORS)) as script, Client(script.url) as client:
        with pytest.raises(error, match=message):
            verb(client, label)
        assert not script.asked


@pytest.mark.parametrize("label", [[], [[0, 1]]])
def test_labels_that_must_say_how_many_rows_are_drawn_are_a_list_that_is_not_empty(label: Any) -> None:
    with Client() as client, pytest.raises(ValueError, match=r"label has shape .* or one for each row"):
        client.sample(label=label)


def score(body: bytes) -> Scores:
    with answering(Reply(200, body, SAFETENSORS)) as script, Client(script.url) as client:
        return client.elbo([[1, 2]], label=0)


def test_scores_say_whether_they_are_conditional_on_the_label() -> None:
    assert score(scores_body(conditional_on="label")).conditional_on == "label"
    assert score(scores_body(conditional_on=None)).conditional_on is None


def test_a_condition_that_is_no_text_is_an_invalid_response() -> None:
    with pytest.raises(InvalidResponse, match="conditional_on is a bool, not a str"):
        score(scores_body(conditional_on=True))


def test_a_conditional_model_draws_encodes_and_scores_given_labels(client: Client) -> None:
    label = np.array([2, 0, 1], np.int32)
    samples = client.sample(label=label, seed=7, model="labels")
    assert samples.x.shape == (3, 8, 8)
    assert client.encode(samples.x, label=label, model="labels").mean.shape == (3, 3)
    given = client.elbo(samples.x, label=label, model="labels", seed=1)
    marginal = client.elbo(samples.x, model="labels", seed=1)
    assert (given.conditional_on, marginal.conditional_on) == ("label", None)


def test_one_label_for_all_rows_equals_that_label_for_each(client: Client) -> None:
    one, each = (client.sample(4, label=label, seed=7, model="labels") for label in (1, [1] * 4))
    assert one.x.tobytes() == each.x.tobytes()


def test_labels_go_with_their_rows(client: Client) -> None:
    whole = client.sample(label=[0, 1, 2, 0], seed=7, model="labels", output="mean")
    for row, label in enumerate((0, 1, 2, 0)):
        part = client.sample(label=label, seed=7, first_index=row, model="labels", output="mean")
        assert part.x.tobytes() == whole.x[row : row + 1].tobytes()


def test_a_class_that_the_model_lacks_is_invalid_input_with_its_place(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"label\[1\] is 3") as caught:
        client.sample(label=[0, 3], model="labels")
    assert caught.value.problem is not None
    assert caught.value.problem["errors"][0]["pointer"] == "/label/1"
