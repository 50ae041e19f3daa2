"""Signed URLs: who has one reads restricted contents without a token."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from apify_client import ApifyClientAsync

from batchrun.server import AccountSettings
from tests.support.server_api import Api, open_api

OTHER = "other-token"
SERVER = {
    "accounts": (AccountSettings(username="other", token=OTHER),),
    "inline_actors": {"test/waits": lambda _: anyio.sleep_forever()},
}


async def _read(api: Api, url: str) -> Any:
    return await api.send("GET", url.removeprefix(api.server.base_url), token=None)


async def _restricted(api: Api) -> tuple[str, str]:
    """Make a dataset and a store with contents that only their owner may read; return their ids."""
    run = await api.run_actor("test~echo", {"a": 1})
    await api.finish(run["id"])
    for path in (f"/v2/datasets/{run['defaultDatasetId']}", f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}"):
        assert (await api.send("PUT", path, {"generalAccess": "RESTRICTED"})).data["generalAccess"] == "RESTRICTED"
    return run["defaultDatasetId"], run["defaultKeyValueStoreId"]


async def test_the_official_clients_urls_open_what_is_restricted(api: Api) -> None:
    """Items, keys and a record, for good or for a while; without the signature, or a part of it, they stay closed."""
    dataset, store = await _restricted(api)
    url = api.server.base_url
    client = ApifyClientAsync(api.server.token, api_url=url, api_public_url=url)
    items = await client.dataset(dataset).create_items_public_url()
    keys = await client.key_value_store(store).create_keys_public_url()
    record = await client.key_value_store(store).get_record_public_url("OUTPUT")
    assert (await _read(api, items)).body == [{"a": 1}]
    assert [key["key"] for key in (await _read(api, keys)).data["items"]] == ["INPUT", "OUTPUT"]
    assert (await _read(api, record)).body == {"a": 1}
    soon = await client.dataset(dataset).create_items_public_url(expires_in=timedelta(hours=1))
    assert (await _read(api, soon)).status == 200
    gone = await client.dataset(dataset).create_items_public_url(expires_in=timedelta(seconds=-1))
    unsigned = [url.partition("?")[0] for url in (items, keys, record)]
    for closed in (gone, *unsigned, f"{items[:-3]}abc", f"{unsigned[0]}?signature=%00é", f"{unsigned[2]}?signature="):
        assert (await _read(api, closed)).refusal == (403, "insufficient-permissions"), closed
    other = await client.key_value_store(store).get_record_public_url("INPUT")
    assert (await _read(api, record.partition("?")[0] + "?" + other.partition("?")[2])).status == 403


async def test_no_value_has_a_key_whose_signature_opens_its_whole_store(api: Api) -> None:
    """Who may choose a key, and gets the value's signed URL, reads no other value."""
    _, store = await _restricted(api)
    for key in (f"0.0.{store}", f"0.1893456000000.{store}"):
        refused = await api.send("PUT", f"/v2/key-value-stores/{store}/records/{key}", "mine")
        assert refused.refusal == (400, "invalid-record-key")
    assert (await api.send("PUT", f"/v2/key-value-stores/{store}/records/0.0.other", "mine")).status == 201


async def test_the_urls_that_the_api_shows_work(api: Api) -> None:
    """To the owner they are signed; others are not shown the secret, and a signature opens no more than contents."""
    dataset, store = await _restricted(api)
    shown, stored = (
        (await api.get(f"/v2/datasets/{dataset}")).data,
        (await api.get(f"/v2/key-value-stores/{store}")).data,
    )
    for url in (shown["itemsPublicUrl"], stored["keysPublicUrl"], stored["recordsPublicUrl"]):
        assert (await _read(api, url)).status == 200
    [_, output] = (await api.get(f"/v2/key-value-stores/{store}/keys")).data["items"]
    assert (await _read(api, output["recordPublicUrl"])).body == {"a": 1}
    query = shown["itemsPublicUrl"].partition("?")[2]
    assert (await _read(api, f"/v2/datasets/{dataset}?{query}")).status == 403
    assert (await api.send("POST", f"/v2/datasets/{dataset}/items?{query}", [{}], token=OTHER)).status == 403
    await api.send("PUT", f"/v2/datasets/{dataset}", {"generalAccess": "ANYONE_WITH_ID_CAN_READ"})
    public = (await _read(api, f"/v2/datasets/{dataset}")).data
    assert "urlSigningSecretKey" not in public
    assert "signature" not in public["itemsPublicUrl"]


async def test_a_run_signs_urls_of_its_own_storages_alone(api: Api) -> None:
    """A signed URL outlives the Run: of its account's other storages it is shown no secret; a webhook sees none."""
    dataset, store = await _restricted(api)
    named = (await api.send("POST", "/v2/datasets", name="named")).data["id"]
    run = await api.run_actor("test~waits", {"a": 1})
    tokens = api.server._backend.tokens
    own, others = (
        [f"/v2/datasets/{run['defaultDatasetId']}", f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/keys"],
        [
            f"/v2/datasets/{dataset}", f"/v2/datasets/{named}", "/v2/datasets?unnamed=1&desc=1&offset=1",
            f"/v2/key-value-stores/{store}", f"/v2/key-value-stores/{store}/keys",
        ],
    )  # fmt: skip

    async def shown(paths: list[str], token: str) -> list[bool]:
        answers = [await api.send("GET", path, token=token) for path in paths]
        assert [answer.status for answer in answers] == [200] * len(paths)
        return [b"ignature=" in orjson.dumps(each.body) or b"SecretKey" in orjson.dumps(each.body) for each in answers]

    run_token, webhook_token = tokens.of_run(run["id"], 0), tokens.of_webhook(run["userId"])
    assert await shown([*own, *others], api.server.token) == [True] * 7
    assert await shown([*own, *others], run_token) == [True] * 2 + [False] * 5
    assert await shown([*own, *others], webhook_token) == [False] * 7
    client = ApifyClientAsync(run_token, api_url=api.server.base_url, api_public_url=api.server.base_url)
    assert "?" not in await client.dataset(named).create_items_public_url()
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")


@pytest.mark.parametrize("is_restricted", [False, True])
async def test_an_accounts_setting_decides_for_the_tokens_of_others(tmp_path: Path, is_restricted: bool) -> None:
    """What follows it is closed or open; what says so itself stays as it says."""
    async with open_api(tmp_path, is_restricted=is_restricted, **SERVER) as api:
        run = await api.run_actor("test~echo", {"a": 1})
        await api.finish(run["id"])
        items, one = f"/v2/datasets/{run['defaultDatasetId']}/items", f"/v2/actor-runs/{run['id']}"
        record = f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/OUTPUT"
        for path in (items, one, record, f"/v2/logs/{run['id']}"):
            expected = 403 if is_restricted else 200
            assert [(await api.send("GET", path, token=token)).status for token in (OTHER, None)] == [expected] * 2
            assert (await api.get(path)).status == 200
        await api.send("PUT", one, {"generalAccess": "ANYONE_WITH_ID_CAN_READ"})
        assert (await api.send("GET", one, token=OTHER)).status == 200


@pytest.mark.parametrize("is_restricted", [False, True])
async def test_what_a_removed_account_has_left_is_read_as_the_server_says(tmp_path: Path, is_restricted: bool) -> None:
    """A server that is restricted shows it to nobody: an account is removed by a mistake in the settings, too."""
    settings: dict[str, Any] = {"is_restricted": is_restricted}
    bob = AccountSettings(username="bob", token="bobs-token", is_restricted=is_restricted)
    async with open_api(tmp_path, accounts=(bob,), **settings) as api:
        created = await api.send("POST", "/v2/datasets", token="bobs-token")
    async with open_api(tmp_path, **settings) as api:
        for token in (None, api.server.token):
            read = await api.send("GET", f"/v2/datasets/{created.data['id']}/items", token=token)
            assert read.status == (403 if is_restricted else 200)
