"""Requests of every kind that the OpenAPI document allows, and of kinds that it does not.

No answer of a real server may be a 5xx, have a status or a content type that the document does not name, or
a body that is not of its schema. `make attack` tries more requests.
"""

import os
from collections import Counter

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from app import main
from app.config import Settings
from tests.system.test_serve import serving

EXAMPLES = int(os.environ.get("ATTACKS", "5"))  # of each kind, for each operation
STREAMS = ("/events",)  # they do not end by themselves
STREAM_SECONDS = (1.0, 60.0)  # for which they are read; the second where nothing came in the first
load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "missing_required_header",
        "unsupported_method",
        "allow_header_conformance",
    ]
)


DOCUMENT = schemathesis.openapi.from_dict(main.create_app(Settings()).openapi())
OPERATIONS = {
    (operation.method.upper(), operation.path): operation
    for operation in (result.ok() for result in DOCUMENT.get_all_operations())
}
KINDS = {"valid": GenerationMode.POSITIVE, "invalid": GenerationMode.NEGATIVE}


@schemathesis.serializer("audio/wav", "audio/l16")
def raw(_, value):
    """A body as it is, or its text."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def url(zoo_folder):
    with serving(zoo_folder, CARRYOVER_RESIDENT_SESSIONS="2048") as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=str)
def test_every_answer_is_one_that_the_document_names(url, method, path, kind):
    answered = Counter()

    def answer(case):
        if path not in STREAMS:
            return case.call(base_url=url)
        first, second = STREAM_SECONDS
        try:
            return case.call(base_url=url, timeout=first)
        except requests.Timeout:  # the machine is busy
            return case.call(base_url=url, timeout=second)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=OPERATIONS[method, path].as_strategy(generation_mode=KINDS[kind]))
    def attack(case):
        response = answer(case)
        answered[response.status_code] += 1
        case.validate_response(response, checks=CHECKED)

    try:
        attack()
    except Unsatisfiable:
        pytest.skip("there is no way to ask it otherwise")
    assert sum(answered.values()) > 0
    print(f"{method} {path} {kind}: {dict(answered)}")
