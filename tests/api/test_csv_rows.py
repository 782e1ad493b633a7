"""CSV in and out: columns by name, the same promises as JSON, refusals by row and column."""

from __future__ import annotations

import dataclasses
import gzip
from typing import Any

import numpy as np
import pytest

from models.artifact.files import save
from tests.helpers.ways import AsgiRoute, check_problem

pytestmark = pytest.mark.anyio

CSV = {"content-type": "text/csv; charset=utf-8"}


@pytest.fixture
def store() -> str:
    return "memory"


async def send(service: Any, session: str, text: str | bytes, query: str = "", **headers: str) -> Any:
    url = f"/sessions/{session}/observations{query}"
    return await service.http.post(url, content=text, headers=CSV | headers)


async def test_columns_are_found_by_name_and_the_answer_is_that_of_the_same_numbers_in_json(start_both):
    async with start_both() as service:
        text = "c;note;b;a\n1,5;x;2;3\n4;y;;6\n"
        answer = await send(service, "a", text, "?model=pair&score=false")
        wanted = (await service.advance("b", [[3, 2, 1.5], [6, None, 4]], model="pair")).numbers
        np.testing.assert_allclose(answer.json()["predictions"], wanted)
        assert answer.json()["observed"] == [[True, True, True], [True, False, True]]
        zipped = await send(service, "a", gzip.compress(b"a,b,c\n1,2,3\n"), **{"content-encoding": "gzip"})
        assert zipped.json()["position"] == 3


async def test_a_chunk_is_applied_once_whether_it_is_sent_as_csv_or_json(start_both):
    async with start_both() as service:
        first = (await send(service, "a", "value\n0.1\n0.2\n", "?at=0")).json()
        again = (await send(service, "a", "x,value\n7,0.1\n7,0.2\n", f"?at=0&epoch={first['epoch']}")).json()
        assert (again["replayed"], again["position"]) == (True, 2)
        body = {"observations": [[0.1], [0.2]], "at": 0}
        as_json = (await service.http.post("/sessions/a/observations", json=body)).json()
        assert as_json == first | {"replayed": True}
        other = await send(service, "a", "value\n0.1\n0.3\n", "?at=0")
        assert other.status_code == 409
        check_problem(other)
        ahead = await send(service, "a", "value\n0.1\n", "?at=2&horizon=3")
        assert (ahead.json()["position"], len(ahead.json()["forecast"])) == (3, 3)


@pytest.mark.parametrize("change", ["reload", "unload"])
async def test_a_session_whose_model_has_changed_is_fed_and_answered_in_csv(
    start_http, artifacts, tmp_path, change
):
    folder = tmp_path / "models"
    save(artifacts["sine"], folder / "sine")
    chunk = {"observations": [0.1]}
    async with start_http(models=(folder,)) as service:
        await service.advance("a", [[0.1]])
        if change == "reload":
            save(dataclasses.replace(artifacts["pair"], name="sine"), folder / "sine")
            changed = await service.http.post("/models/sine/reload")
        else:
            changed = await service.http.post("/v2/repository/models/sine/unload")
        assert changed.status_code == 200
        url, wanted = "/sessions/a/observations", {"accept": "text/csv"}
        as_json = await service.http.post(url, json=chunk, headers=wanted)
        as_csv = await send(service, "a", "value\n0.1\n", accept="text/csv")
        found = [(answer.status_code, answer.text.partition("\n")[0]) for answer in (as_json, as_csv)]
        assert (found, (await service.session("a"))["position"]) == ([(200, "position,value")] * 2, 3)


async def test_the_answer_is_csv_where_it_is_wanted(start_both):
    async with start_both() as service:
        answer = await send(service, "a", "value\n0.1\nNA\n", accept="text/csv")
        again = await service.http.post(
            "/sessions/b/observations", json={"observations": [0.1, None]}, headers={"accept": "text/csv"}
        )
        wanted = (
            await service.http.post("/sessions/c/observations", json={"observations": [0.1, None]})
        ).json()
        forecast = await send(service, "a", "value\n0.1\n", "?horizon=2", accept="text/csv")
        position = (await service.session("a"))["position"]
    assert answer.headers["content-type"].startswith("text/csv")
    assert (answer.headers["carryover-replayed"], answer.text) == ("false", again.text)
    header, *rows = answer.text.splitlines()
    assert header == "position,value"
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    np.testing.assert_allclose([float(row.split(",")[1]) for row in rows], wanted["predictions"], rtol=1e-6)
    assert (forecast.status_code, position) == (422, 2)


@pytest.mark.parametrize("start_both", [AsgiRoute], indirect=True)
async def test_what_cannot_be_read_is_refused_by_row_and_column_and_nothing_advances(start_both):
    cases: list[tuple[str | bytes, str, int, str, dict[str, Any]]] = [
        ("v\n1\n", "", 400, "has the columns v; the model reads value", {}),
        ("v\n1\n", "", 400, "Say which column is which: map=v=value", {}),
        (
            "value\n1\nlow\n",
            "",
            400,
            "row 2, column 'value': 'low' is not a number",
            {"row": 2, "column": "value"},
        ),
        (
            "value\n1\n1e39\n",
            "",
            400,
            "row 2, column 'value' is 1e+39, not a finite",
            {"row": 2, "column": "value"},
        ),
        ("value\n1\ninf\n", "", 400, "inf is not finite", {"row": 2, "column": "value"}),
        ("value,b\n1,2\n3\n", "", 400, "row 2: 1 cells, expected 2", {"row": 2}),
        ("value;b\n1,234;2\n", "", 400, "say which: decimal=, or decimal=.", {"row": 1, "column": "value"}),
        (
            "t,value\n1.2.2024,2\n",
            "",
            400,
            "say which: day_first=true or day_first=false",
            {"row": 1, "column": "t"},
        ),
        ("value\n", "", 400, "has no rows", {}),
        ("", "", 400, "is empty", {}),
        ("value\n1\n".encode("utf-16"), "", 400, "looks like UTF-16: encoding=utf-16", {}),
        (gzip.compress(b"value\n1\n"), "", 400, "it looks like gzip", {}),
        ("value\n" + "1\n" * 101, "", 413, "at most 100 rows", {"limit": 100}),
        ("value\n1\n", "?mapp=x=value", 422, "there is no query parameter 'mapp'", {"field": "mapp"}),
        ("value\n1\n", "?map=x", 422, "map is COLUMN=INPUT", {"field": "map"}),
        ("value\n1\n", "?at=-1", 422, "at", {}),
        ("value\n1\n", "?decimal=%20", 422, "decimal", {}),
        ("value\n1\n", "?timezone=Mars", 400, "unknown time zone", {}),
        ("value\n1\n", "?model=none", 404, "there is no model 'none'", {}),
    ]
    async with start_both(chunk_observations=100) as service:
        for text, query, status, message, extra in cases:
            if "timezone" in query:
                text = "t,value\n2024-01-01,1\n"
            answer = await send(service, "a", text, query)
            assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
            assert extra.items() <= answer.json().items()
            check_problem(answer)
        assert (await service.http.get("/sessions")).json()["total"] == 0


@pytest.mark.parametrize("start_both", [AsgiRoute], indirect=True)
async def test_the_times_of_a_row_are_those_of_a_model_with_time_features(start_both):
    async with start_both() as service:
        model = (await service.http.get("/models/planned")).json()
        names = [port["name"] for port in model["inputs"][: -2 * len(model["time_features"])]]
        rows = [[0.1 * i] * len(names) for i in range(3)]
        stamps = [f"2024-07-01 {hour:02}:00" for hour in range(3)]
        text = ",".join(["when", *names]) + "\n"
        text += "".join(
            ",".join([stamp, *map(str, row)]) + "\n" for stamp, row in zip(stamps, rows, strict=True)
        )
        answer = await send(service, "a", text, "?model=planned&timezone=Europe/Berlin")
        moments = [f"2024-07-01T{hour:02}:00+02:00" for hour in range(3)]
        body = {"observations": rows, "timestamps": moments, "model": "planned"}
        wanted = await service.http.post("/sessions/b/observations", json=body)
        assert answer.json()["predictions"] == wanted.json()["predictions"]
        untimed = await send(
            service, "c", ",".join(names) + "\n" + ",".join(["1"] * len(names)), "?model=planned"
        )
        assert (untimed.status_code, untimed.json()["field"]) == (422, "time_column")
        for old, new, said, place in (
            ("07-01 02:", "07-01 03:", "row 3 is not 3600 s after", {"row": 3}),
            (",0.1,0.1", ",0.1,", f"row 2, column {names[1]!r} is missing", {"row": 2, "column": names[1]}),
        ):
            refused = await send(service, "d", text.replace(old, new), "?model=planned")
            assert refused.status_code == 422
            assert check_problem(refused)["detail"].startswith(said)
            assert place.items() <= refused.json().items()


@pytest.mark.parametrize("start_both", [AsgiRoute], indirect=True)
async def test_a_file_can_be_read_without_a_session(start_both):
    async with start_both() as service:
        url = "/models/pair/rows?map=temperature=a"
        text = "ts,c,note,b,temperature\n1704067200,1,x,2,3\n1704067260,4,y,NA,6\n"
        answer = (await service.http.post(url, content=text, headers=CSV)).json()
        assert answer == {
            "columns": ["a", "b", "c"],
            "ignored": ["note"],
            "notes": ["column 'ts' is read as times in seconds since 1970"],
            "observations": [[3, 2, 1], [6, None, 4]],
            "timestamps": [1704067200, 1704067260],
        }
        refused = await service.http.post(url, content=b"a\n1\n", headers=CSV)
        assert refused.status_code == 400
        assert (await service.http.get("/sessions")).json()["total"] == 0


async def test_csv_without_its_content_type_is_refused_with_the_header_to_send(start_both):
    async with start_both() as service:
        for text in ("value\n0.5\n0.25\n", "0.5,0.25", "timestamp,value\n2024-01-01,1\n"):
            headers = {"content-type": "application/x-www-form-urlencoded"}  # as curl sends it
            refused = await service.http.post("/sessions/a/observations", content=text, headers=headers)
            assert refused.status_code == 400
            assert "Content-Type: text/csv" in check_problem(refused)["detail"]
        for text in ('{"observations": [0.5', "[0.5,", '"a,b', "x", ""):
            refused = await service.http.post("/sessions/a/observations", content=text)
            assert "text/csv" not in check_problem(refused)["detail"]
