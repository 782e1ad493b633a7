"""The Open Inference Protocol with Triton's own clients: every call that they have."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tritonclient.utils import InferenceServerException

from app.open_inference.statistics import PHASES
from tests.helpers.triton import CLIENTS
from tests.helpers.zoo import TOLERANCE, one_pass, series
from tests.promises.test_promises import cuts

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def serve(request, start_hot):
    """`async with serve(...) as (client, service)`: for every client."""

    @asynccontextmanager
    async def serve(**changes):
        async with start_hot(**{"grpc_port": 0} | request.param.settings | changes) as service:
            client = request.param(service)
            await client.open()
            try:
                yield client, service
            finally:
                await client.close()

    return serve


async def call_json(client, method, *arguments, **named):
    """The answer of a call as a dictionary; in gRPC's, 64-bit numbers are texts."""
    if client.name.startswith("grpc"):
        named["as_json"] = True
    return await client.call(method, *arguments, **named)


async def states(client):
    """Of every model, by its name."""
    index = await call_json(client, "get_model_repository_index")
    models = index["models"] if isinstance(index, dict) else index
    return {model["name"]: model["state"] for model in models}


async def refused(client, *arguments, **named):
    with pytest.raises(InferenceServerException) as error:
        await client.infer(*arguments, **named)
    return error.value.message()


async def test_interleaved_sequences_in_chunks_of_any_size_equal_single_passes(serve, artifacts):
    wholes = [series("pair", 40, i) for i in range(64)]
    async with serve() as (client, _):
        streams = [client.stream("pair", whole, i + 1, cuts(40, i)) for i, whole in enumerate(wholes)]
        for whole, got in zip(wholes, await asyncio.gather(*streams), strict=True):
            assert_allclose(got, one_pass(artifacts["pair"], whole), atol=TOLERANCE, rtol=0)


async def test_health_reports_what_is_alive_and_ready(serve):
    async with serve() as (client, _):
        assert await client.call("is_server_live")
        assert await client.call("is_server_ready")
        assert await client.call("is_model_ready", "sine")
        assert await client.call("is_model_ready", "sine", "1")
        assert not await client.call("is_model_ready", "sine", "2")
        assert not await client.call("is_model_ready", "nobody")


async def test_a_stopping_server_is_alive_and_not_ready(serve):
    async with serve() as (client, service):
        service.engine.stopping = True
        assert await client.call("is_server_live")
        assert not await client.call("is_server_ready")
        service.engine.stopping = False


async def test_the_server_lists_only_extensions_that_it_supports(serve):
    async with serve() as (client, _):
        answer = await call_json(client, "get_server_metadata")
        assert answer["name"] == "carryover"
        assert "sequence" in answer["extensions"]
        assert not {"classification", "system_shared_memory", "trace"} & set(answer["extensions"])


async def test_metadata_lists_the_tensors_of_a_model(serve):
    async with serve() as (client, _):
        for version in ("", "1"):
            answer = await call_json(client, "get_model_metadata", "pair", version)
            (tensor,) = answer["inputs"]
            assert (tensor["name"], tensor["datatype"]) == ("observations", "FP32")
            assert [int(size) for size in tensor["shape"]] == [-1, -1, 3]
            assert [output["name"] for output in answer["outputs"]] == ["predictions", "observed", "forecast"]
        partial = await call_json(client, "get_model_metadata", "partial")
        assert [output["name"] for output in partial["outputs"]] == ["predictions"]


async def test_metadata_of_a_learning_model_lists_intervals_and_scores(serve):
    async with serve() as (client, _):
        answer = await call_json(client, "get_model_metadata", "adaptive")
        names = {output["name"]: int(output["shape"][2]) for output in answer["outputs"]}
        assert {
            "lower": 2,
            "upper": 2,
            "residuals": 2,
            "scores": 1,
            "forecast_upper": 2,
        }.items() <= names.items()


async def test_the_configuration_says_that_sequences_are_batched(serve):
    async with serve(idle_ttl_seconds=60) as (client, _):
        answer = await call_json(client, "get_model_config", "pair")
        config = answer.get("config", answer)
        assert config["sequence_batching"]["oldest"]
        assert int(config["sequence_batching"]["max_sequence_idle_microseconds"]) == 60_000_000
        assert config["max_batch_size"] == 1
        (tensor,) = config["input"]
        assert (tensor["data_type"], [int(size) for size in tensor["dims"]]) == ("TYPE_FP32", [-1, 3])


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
async def test_an_unknown_model_has_tritons_error_text(serve, method):
    async with serve() as (client, _):
        with pytest.raises(
            InferenceServerException, match="Request for unknown model: 'nobody' is not found"
        ):
            await client.call(method, "nobody")
        with pytest.raises(InferenceServerException, match="unknown model: 'sine' version 7 is not found"):
            await client.call(method, "sine", "7")


async def test_statistics_count_answered_and_refused_requests(serve):
    async with serve() as (client, _):
        for at in range(3):
            await client.infer("sine", [[0.5]], 1, start=at == 0)
        await refused(client, "sine", [[0.5]], 99)
        answer = await call_json(client, "get_inference_statistics", "sine")
        (stats,) = answer["model_stats"]
        parts = stats["inference_stats"]
        counts = {name: int(part["count"]) for name, part in parts.items() if "count" in part}
        assert counts.items() >= {"success": 3, "fail": 1, "queue": 3, "compute_infer": 3}.items()
        assert (int(stats["inference_count"]), int(stats["execution_count"])) == (3, 3)
        assert int(stats["last_inference"]) > 0
        spent = [int(parts[name]["ns"]) for name in ("queue", *PHASES)]
        assert min(spent) > 0
        assert sum(spent) == int(parts["success"]["ns"])
        batches = [
            (int(batch["batch_size"]), int(batch[PHASES[0]]["count"])) for batch in stats["batch_stats"]
        ]
        assert batches == [(1, 3)]
        every = await call_json(client, "get_inference_statistics")
        assert {each["name"] for each in every["model_stats"]} >= {"sine", "pair"}


async def test_a_request_without_a_sequence_has_tritons_error_text(serve):
    wanted = "inference request to model 'sine' must specify a non-zero or non-empty correlation ID"
    async with serve() as (client, _):
        assert await refused(client, "sine", [[0.5]]) == wanted


async def test_an_unknown_sequence_has_tritons_error_text(serve):
    wanted = (
        "inference request for sequence {} to model 'sine' must specify the START flag "
        "on the first request of the sequence"
    )
    async with serve() as (client, _):
        assert await refused(client, "sine", [[0.5]], 5) == wanted.format(5)
        assert await refused(client, "sine", [[0.5]], "pump") == wanted.format("pump")


async def test_the_error_for_an_ended_sequence_says_where_it_ended(serve):
    async with serve() as (client, service):
        await client.infer("sine", [[0.5], [0.6]], 5, start=True, end=True)
        assert "START flag" in (message := await refused(client, "sine", [[0.5]], 5))
        assert "was deleted at position 2" in message
        assert len(service.engine.residents) == 0


async def test_errors_about_tensors_have_tritons_texts(serve):
    async with serve() as (client, _):
        message = await refused(client, "pair", [[0.5]], 5, start=True)
        assert (
            "unexpected shape for input 'observations' for model 'pair'. Expected [-1,-1,3], got [1,1,1]"
            in message
        )
        message = await refused(client, "sine", [[0.5]], 5, start=True, outputs=["colour"])
        assert message == "unexpected inference output 'colour' for model 'sine'"
        message = await refused(client, "sine", [[0.5]], 5, start=True, outputs=["forecast"])
        assert "it needs the parameter horizon" in message
        message = await refused(client, "sine", [[np.nan]], 5, start=True)
        assert "row 0, column 0 is nan" in message
        message = await refused(client, "nobody", [[0.5]], 5, start=True)
        assert message == "Request for unknown model: 'nobody' is not found"
        strange = client.tensors.InferInput("colour", [1, 1, 1], "FP32")
        strange.set_data_from_numpy(np.zeros((1, 1, 1), np.float32))
        double = client.tensors.InferInput("observations", [1, 1, 1], "FP64")
        double.set_data_from_numpy(np.zeros((1, 1, 1), np.float64))
        pairs = client.tensors.InferInput("observations", [2, 1, 1], "FP32")
        pairs.set_data_from_numpy(np.zeros((2, 1, 1), np.float32))
        for tensor, wanted in (
            (strange, "unexpected inference input 'colour' for model 'sine'"),
            (double, "inference input 'observations' data-type is 'FP64', but model 'sine' expects 'FP32'"),
            (pairs, "must specify batch-size 1 due to requirements of sequence batcher"),
        ):
            with pytest.raises(InferenceServerException) as error:
                await client.call("infer", "sine", [tensor], sequence_id=5, sequence_start=True)
            assert wanted in error.value.message()
        assert (await client.infer("sine", [[0.5]], 5, start=True)).as_numpy("forecast") is None


async def test_start_resets_an_existing_sequence_and_keeps_its_position(serve, artifacts):
    whole = series("sine", 20)
    async with serve() as (client, service):
        await client.infer("sine", series("sine", 7, 3), 9, start=True)
        result = await client.infer("sine", whole, 9, start=True)
        assert_allclose(result.as_numpy("predictions")[0], one_pass(artifacts["sine"], whole), atol=TOLERANCE)
        shown = await service.session("9")
        assert (shown["position"], shown["observations_since_reset"]) == (27, 20)


@pytest.mark.parametrize("sequence", [1, 2**53 + 1, 2**63 - 1, "pump-7", "0x1f:A"])
async def test_a_sequence_is_the_session_with_its_id(serve, sequence):
    async with serve() as (client, service):
        first = await client.infer("sine", [[0.5]], sequence, start=True)
        shown = await service.session(str(sequence))
        assert (shown["model"], shown["position"]) == ("sine", 1)
        await service.http.post(f"/sessions/{sequence}/reset")
        again = await client.infer("sine", [[0.5]], sequence)
        assert_array_equal(again.as_numpy("predictions"), first.as_numpy("predictions"))


async def test_a_session_made_by_another_route_continues_as_a_sequence(serve, artifacts):
    whole = series("sine", 12)
    async with serve() as (client, service):
        await service.advance("77", whole[:5], 0)
        result = await client.infer("sine", whole[5:], 77, end=True)
        wanted = one_pass(artifacts["sine"], whole)[5:]
        assert_allclose(result.as_numpy("predictions")[0], wanted, atol=TOLERANCE)
        assert (await service.http.get("/sessions/77")).status_code == 410


async def test_a_sequence_of_one_model_is_refused_by_another(serve):
    async with serve() as (client, _):
        await client.infer("sine", [[0.5]], 5, start=True)
        message = await refused(client, "pair", [[0.5, 0.1, 0.2]], 5)
        assert "session '5' runs model 'sine', not 'pair'" in message


async def test_at_applies_a_chunk_exactly_once(serve):
    async with serve() as (client, service):
        await client.infer("sine", [[0.5]], 5, start=True, parameters={"at": 0})
        first = await client.infer("sine", [[0.7], [0.8]], 5, parameters={"at": 1})
        again = await client.infer("sine", [[0.7], [0.8]], 5, parameters={"at": 1})
        assert_array_equal(again.as_numpy("predictions"), first.as_numpy("predictions"))
        assert "is at 3" in await refused(client, "sine", [[0.9]], 5, parameters={"at": 1})
        assert (await service.session("5"))["position"] == 3


async def test_a_retried_start_is_replayed_and_resets_once(serve):
    async with serve() as (client, service):
        await client.infer("sine", [[0.1], [0.2]], 5, start=True)
        first = await client.infer("sine", [[0.5]], 5, start=True, parameters={"at": 2})
        again = await client.infer("sine", [[0.5]], 5, start=True, parameters={"at": 2})
        assert_array_equal(again.as_numpy("predictions"), first.as_numpy("predictions"))
        shown = await service.session("5")
        assert (shown["position"], shown["observations_since_reset"]) == (3, 1)


async def test_horizon_adds_the_same_forecast_as_on_other_routes(serve):
    async with serve() as (client, service):
        result = await client.infer("sine", [[0.5], [0.6]], 5, start=True, parameters={"horizon": 4})
        wanted = await service.advance("other", [[0.5], [0.6]], 0, horizon=4)
        assert_array_equal(result.as_numpy("forecast")[0], wanted.forecast)
        assert_array_equal(result.as_numpy("predictions")[0], wanted.numbers)


async def test_level_score_and_gaps_add_the_outputs_of_a_learning_model(serve):
    rows = series("adaptive", 30)
    rows[10:12] = np.nan
    parameters = {"level": 0.9, "score": True, "gaps": True, "horizon": 3}
    async with serve() as (client, service):
        result = await client.infer("adaptive", rows, 5, start=True, parameters=parameters)
        body = {"observations": np.where(np.isnan(rows), None, rows.astype(float)).tolist()}
        body |= {"model": "adaptive", "level": 0.9, "score": True, "horizon": 3}
        answer = (await service.http.post("/sessions/other/observations", json=body)).json()
        bands = ("lower", "upper", "forecast_lower", "forecast_upper")
        for name in ("predictions", "residuals", "forecast", *bands):
            assert_allclose(result.as_numpy(name)[0], np.array(answer[name], np.float32), atol=1e-5)
        assert_array_equal(result.as_numpy("observed")[0].astype(bool), answer["observed"])
        assert result.as_numpy("scores").shape == (1, 30, 1)


async def test_a_requested_output_is_returned_alone(serve):
    async with serve() as (client, _):
        result = await client.infer(
            "sine", [[0.5]], 5, start=True, outputs=["forecast"], parameters={"horizon": 2}
        )
        assert result.as_numpy("forecast").shape == (1, 2, 1)
        assert result.as_numpy("predictions") is None


async def test_the_answer_has_the_request_id_and_the_position(serve):
    async with serve() as (client, _):
        result = await client.infer("sine", [[0.5], [0.6]], 5, start=True, request_id="r-1")
        response = result.get_response()
        if client.name.startswith("grpc"):
            got = (response.id, response.parameters["position"].int64_param)
        else:
            got = (response["id"], response["parameters"]["position"])
        assert got == ("r-1", 2)


async def test_unload_refuses_new_sequences_lets_running_ones_end_and_load_undoes_it(serve):
    async with serve() as (client, _):
        await client.infer("sine", [[0.5]], 5, start=True)
        await client.call("unload_model", "sine")
        assert (await states(client)).items() >= {"sine": "UNLOADING", "pair": "READY"}.items()
        assert not await client.call("is_model_ready", "sine")
        assert "has no available versions" in await refused(client, "sine", [[0.5]], 6, start=True)
        await client.infer("sine", [[0.5]], 5, end=True)
        assert (await states(client))["sine"] == "UNAVAILABLE"
        assert "has no available versions" in await refused(client, "sine", [[0.5]], 6, start=True)
        await client.call("load_model", "sine")
        await client.infer("sine", [[0.5]], 6, start=True)
        assert (await states(client))["sine"] == "READY"


async def test_loading_a_bad_model_is_an_error_and_unloading_an_unknown_one_is_not(serve):
    async with serve() as (client, _):
        with pytest.raises(InferenceServerException, match="failed to load 'nobody', failed to poll"):
            await client.call("load_model", "nobody")
        await client.call("unload_model", "nobody")
        with pytest.raises(InferenceServerException, match="not supported"):
            await client.call("load_model", "sine", config="{}")


async def test_sequences_of_every_client_share_batches_with_other_routes(serve):
    async with serve() as (client, service):
        sizes = []
        make_resident = service.engine.residents.make_resident

        async def record_batch(batch):
            sizes.append(len(batch.sessions))
            await make_resident(batch)

        service.engine.residents.make_resident = record_batch
        chunks = [[0.5]] * 2
        many = [service.advance(f"s{i}", chunks) for i in range(40)]
        await asyncio.gather(*many, *(client.infer("sine", chunks, 100 + i, start=True) for i in range(8)))
        assert sum(sizes) == 48
        assert max(sizes) > 1
