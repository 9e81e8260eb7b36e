"""What callers ask and what they get, without HTTP: a verb's fields and arrays become a job, a result an answer."""

from elbod.requests.answers import Answer, answer
from elbod.requests.checks import UNLIMITED, RequestLimits, check_count
from elbod.requests.verbs import Arrays, ElboRequest, EncodeRequest, Request, SampleRequest, validated

__all__ = [
    "UNLIMITED",
    "Answer",
    "Arrays",
    "ElboRequest",
    "EncodeRequest",
    "Request",
    "RequestLimits",
    "SampleRequest",
    "answer",
    "check_count",
    "validated",
]
