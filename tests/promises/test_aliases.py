"""Several models may have the same network under different names, and a new session says which it means."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from numpy.testing import assert_allclose

from app.config import Settings
from app.model_library import ModelLibrary
from models.artifact.files import save
from tests.helpers.zoo import TOLERANCE, made, one_pass, series

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(artifacts, tmp_path):
    """One network as `prod` and as `staging`."""
    for name in ("prod", "staging"):
        save(replace(artifacts["sine"], name=name), tmp_path / "zoo" / name)
    return tmp_path / "zoo"


@pytest.fixture
def opened(start_http, folder):
    return lambda **changes: start_http(**({"models": (folder,), "default_model": None} | changes))


async def advance(service, session: str, observations, at: int, **more):
    body = {"observations": observations.tolist(), "at": at} | more
    response = await service.http.post(f"/sessions/{session}/observations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def listed(service, **query) -> list[tuple[str, str]]:
    page = (await service.http.get("/sessions", params=query)).json()
    return [(row["session"], row["model"]) for row in page["sessions"]]


async def test_a_session_of_an_alias_keeps_its_name_in_answers_and_after_a_restart(opened, artifacts, store):
    whole = series("sine", 12)
    for first, last in ((0, 6), (6, 12)):
        async with opened() as service:
            for name in ("staging", "prod"):
                got = await advance(service, f"of-{name}", whole[first:last], first, model=name)
                assert got["model"] == name
                wanted = one_pass(artifacts["sine"], whole)[first:last]
                assert_allclose(got["predictions"], wanted, atol=TOLERANCE, rtol=0)
            assert await listed(service) == [("of-prod", "prod"), ("of-staging", "staging")]
            assert await listed(service, model="staging") == [("of-staging", "staging")]
            models = (await service.http.get("/models")).json()["models"]
            assert [(model["name"], model["sessions_resident"]) for model in models] == [
                ("prod", 1),
                ("staging", 1),
            ]
            wrong = await service.http.post(
                "/sessions/of-prod/observations", json={"observations": [[0.1]], "model": "staging"}
            )
            assert wrong.status_code == 409
        if store == "memory":
            break


async def test_promoting_a_network_makes_an_alias_of_it_and_moves_no_session(opened, folder, artifacts):
    newer = made("sine", hidden=32, layers=2, seed=9)
    save(replace(newer, name="staging"), folder / "staging")
    whole = series("sine", 12)
    async with opened() as service:
        for name in ("staging", "prod"):
            await advance(service, f"of-{name}", whole[:4], 0, model=name)
        save(replace(newer, name="prod"), folder / "prod")
        assert (await service.http.post("/models/prod/reload")).json()["changed"] is True
        for name, artifact in (("staging", newer), ("prod", artifacts["sine"])):
            got = await advance(service, f"of-{name}", whole[4:8], 4, model=name)
            assert_allclose(got["predictions"], one_pass(artifact, whole)[4:8], atol=TOLERANCE, rtol=0)
        assert (await service.http.post("/sessions/of-prod/reset")).json()["fingerprint"] == newer.fingerprint
        got = await advance(service, "of-prod", whole, 8, model="prod")
        assert got["model"] == "prod"
        assert_allclose(got["predictions"], one_pass(newer, whole), atol=TOLERANCE, rtol=0)
        again = await service.http.post("/models/prod/reload")
        assert again.json()["changed"] is False


async def test_an_exported_session_of_an_alias_goes_where_only_the_network_is(opened, start_http, folder):
    async with opened() as service:
        await advance(service, "a", series("sine", 4), 0, model="staging")
        exported = (await service.http.get("/sessions/a/state")).content
        await service.http.delete("/sessions/a")
    shutil.rmtree(folder / "staging")
    async with opened(store="memory") as service:
        answer = await service.http.put("/sessions/b/state", content=exported)
        assert answer.status_code in (200, 201), answer.text
        assert (await service.session("b"))["model"] == "prod"


async def test_a_new_session_must_name_its_model_where_none_is_the_default(opened):
    async with opened(store="memory") as service:
        chunk = {"observations": [[0.1]]}
        refused = await service.http.post("/sessions/a/observations", json=chunk)
        created = await service.http.post("/sessions", json={"id": "a"})
        many = await service.http.post("/observations", json={"sessions": ["a"], "observations": [[[0.1]]]})
        (of_many,) = many.json()["errors"].values()
        for problem in (refused.json(), created.json(), of_many):
            assert problem["type"] == "urn:carryover:unprocessable"
            assert problem["models"] == ["prod", "staging"]
            assert problem["detail"].startswith("name the `model` of a new session")
        assert refused.status_code == created.status_code == 422
        named = await service.http.post("/sessions/a/observations", json=chunk | {"model": "prod"})
        later = await service.http.post("/sessions/a/observations", json=chunk)
        assert named.json()["model"] == later.json()["model"] == "prod"
        models = (await service.http.get("/models")).json()["models"]
        assert [model["default"] for model in models] == [False, False]


@pytest.mark.parametrize(
    ("models", "setting", "default"),
    [
        ((".",), None, None),
        (("prod",), None, "prod"),
        (("staging", "prod"), None, "staging"),
        (("staging", "."), None, "staging"),
        ((".",), "prod", "prod"),
        (("alone",), None, "prod"),
    ],
)
def test_the_default_is_the_setting_else_the_first_named_else_the_only_one(
    folder, artifacts, models, setting, default
):
    shutil.copytree(folder / "prod", folder / "alone" / "prod")
    if models == ("staging", "."):
        shutil.rmtree(folder / "staging")
        save(replace(artifacts["pair"], name="staging"), folder.parent / "staging")
        models = ("../staging", ".")
    library = ModelLibrary(Settings(models=tuple(folder / name for name in models), default_model=setting))
    assert library.default_name(library.load()) == default
