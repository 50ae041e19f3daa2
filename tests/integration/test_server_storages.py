"""Datasets and key-value stores over HTTP."""

import threading
from typing import Any

import pytest
from yarl import URL

from batchrun.server.api import dataset_routes
from batchrun.server.content import item_json
from tests.support.server_api import Answer, Api

PAGINATION = ("Total", "Offset", "Limit", "Count", "Desc")
SERVER = {"is_rate_limited": False}


async def _filled(api: Api, *items: Any) -> str:
    dataset = str((await api.send("POST", "/v2/datasets")).data["id"])
    if items:
        assert (await api.send("POST", f"/v2/datasets/{dataset}/items", list(items))).status == 201
    return dataset


def _pagination(answer: Answer) -> list[str]:
    return [answer.headers[f"X-Apify-Pagination-{name}"] for name in PAGINATION]


async def test_items_come_back_in_order_with_the_headers_of_a_page(api: Api) -> None:
    """Offset, limit and desc choose; the five headers say what was chosen; beyond the end is an empty page."""
    dataset = await _filled(api, *({"n": n} for n in range(5)))
    path = f"/v2/datasets/{dataset}/items"
    everything = await api.get(path)
    assert everything.body == [{"n": n} for n in range(5)]
    assert _pagination(everything) == ["5", "0", "999999999999", "5", "false"]
    page = await api.get(path, offset=1, limit=2)
    assert (page.body, _pagination(page)) == ([{"n": 1}, {"n": 2}], ["5", "1", "2", "2", "false"])
    page = await api.get(path, desc=1, offset=1, limit=2)
    assert (page.body, _pagination(page)) == ([{"n": 3}, {"n": 2}], ["5", "1", "2", "2", "true"])
    page = await api.get(path, offset=10**11, limit=999999999999)
    assert (page.body, page.headers["X-Apify-Pagination-Count"]) == ([], "0")


async def test_a_long_dataset_is_streamed_whole(api: Api) -> None:
    """More than one chunk arrives as one array, in order, both ways, and with a view."""
    dataset = await _filled(api, *({"n": n, "x": "ü"} for n in range(3456)))
    path = f"/v2/datasets/{dataset}/items"
    assert [item["n"] for item in (await api.get(path)).body] == list(range(3456))
    assert (await api.get(path, desc=1, limit=2000, fields="n")).body == [{"n": n} for n in range(3455, 1455, -1)]
    lines = (await api.get(path, format="jsonl")).body.decode().splitlines()
    assert (len(lines), lines[-1]) == (3456, '{"n":3455,"x":"ü"}')
    assert (await api.get(path, limit=1500, unwind="none", skipEmpty=1, fields="none")).body == []


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"fields": "a,c"}, [{"a": 1, "c": {"d": [1, 2]}}, {}]),
        ({"fields": "c,a", "outputFields": "x,y"}, [{"x": {"d": [1, 2]}, "y": 1}, {}]),
        ({"omit": "c,#h,b"}, [{"a": 1}, {}]),
        ({"clean": "1"}, [{"a": 1, "b": [{"e": 1}, {"e": 2}], "c": {"d": [1, 2]}}]),
        ({"skipHidden": "true"}, [{"a": 1, "b": [{"e": 1}, {"e": 2}], "c": {"d": [1, 2]}}, {}]),
        ({"skipEmpty": "1", "fields": "zz"}, []),
        ({"unwind": "b", "fields": "a,e"}, [{"a": 1, "e": 1}, {"a": 1, "e": 2}, {}]),
        ({"flatten": "c", "fields": "c.d/0,a"}, [{"c.d/0": 1, "a": 1}, {}]),
        ({"limit": "1", "clean": "1", "offset": "1"}, []),
    ],
)
async def test_items_are_shown_as_asked(api: Api, query: dict[str, str], shown: object) -> None:
    """Views are applied after paging."""
    item = {"a": 1, "#h": 2, "b": [{"e": 1}, {"e": 2}], "c": {"d": [1, 2]}}
    dataset = await _filled(api, item, {})
    assert (await api.get(f"/v2/datasets/{dataset}/items", **query)).body == shown


async def test_items_are_written_as_csv(api: Api) -> None:
    """A header of all leaves, quoted cells, a mark at the front unless refused."""
    dataset = await _filled(api, {"a": 'x"y', "b": {"c": 1}}, {"a": None, "d": [True]})
    path = f"/v2/datasets/{dataset}/items"
    answer = await api.get(path, format="csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.body.decode() == '\ufeffa,b.c,d/0\r\n"x""y",1,\r\n,,true\r\n'
    assert (await api.get(path, format="csv", bom=0, delimiter=";", fields="b")).body == b'b.c\r\n1\r\n""\r\n'


@pytest.mark.parametrize(
    "query",
    [
        {"format": "exe"},
        {"limit": "-1"},
        {"offset": "x"},
        {"offset": "1.5"},
        {"desc": "perhaps"},
        {"fields": "a", "outputFields": "a,b"},
        {"format": "csv", "delimiter": '"'},
    ],
)
async def test_a_page_that_cannot_be_is_refused(api: Api, query: dict[str, str]) -> None:
    """400 `invalid-value`, naming the parameter."""
    assert (await api.get(f"/v2/datasets/{await _filled(api)}/items", **query)).refusal == (400, "invalid-value")


@pytest.mark.parametrize("form", ["json", "csv", "xml"])
async def test_unwinding_that_would_make_too_much_of_an_item_is_refused(api: Api, form: str) -> None:
    """A few KB would be billions of items: arrays multiply, and each piece repeats the rest."""
    arrays = {name: list(range(1000)) for name in "abc"}
    dataset = await _filled(api, arrays, {"a": [0] * 100_000, "rest": "x" * 100_000})
    for query in ({"unwind": "a,b,c", "limit": "1"}, {"unwind": "a", "offset": "1"}):
        answer = await api.get(f"/v2/datasets/{dataset}/items", **query, format=form)
        assert (answer.refusal, "Unwinding" in answer.body["error"]["message"]) == ((400, "invalid-value"), True)
    assert len((await api.get(f"/v2/datasets/{dataset}/items", unwind="a", limit="1")).body) == 1000


async def test_a_long_path_is_not_repeated_for_each_leaf(api: Api) -> None:
    """A hundred KB would be 50 MB; the value stays nested."""
    long, many = "k" * 100_000, {str(n): n for n in range(500)}
    dataset = await _filled(api, {"a": {long: many}, "b": {"c": {"d": 1}}})
    answer = await api.get(f"/v2/datasets/{dataset}/items", flatten="a,b")
    assert answer.body == [{f"a.{long}": many, "b.c.d": 1}]


async def test_xml_repeats_no_long_name_for_each_part_of_an_array(api: Api) -> None:
    """A few hundred bytes on the wire would be gigabytes: names are cut, and what is still too much is refused."""
    dataset = await _filled(api, {"k" * 100_000: [1, 2]}, {"k" * 200: [1] * 400_000})
    path = f"/v2/datasets/{dataset}/items"
    assert (await api.get(path, format="xml", limit="1")).body.count(b"k") == 2 * 2 * 200
    answer = await api.get(path, format="xml", offset="1")
    assert (answer.refusal, "XML" in answer.body["error"]["message"]) == ((400, "invalid-value"), True)


@pytest.mark.parametrize("form", ["json", "csv"])
async def test_an_item_has_a_bounded_number_of_leaves(api: Api, form: str) -> None:
    """Each repeats its path. A value that would be too many stays nested, and the others are shown by their leaves."""
    dataset = await _filled(api, {"few": [1, 2], "many": [1] * 100_000, "more": {"a": 1}})
    answer = await api.get(f"/v2/datasets/{dataset}/items", flatten="few,many,more", format=form)
    if form == "json":
        assert answer.body == [{"few/0": 1, "few/1": 2, "many": [1] * 100_000, "more.a": 1}]
    else:
        assert answer.body.decode("utf-8-sig").splitlines()[0] == "few/0,few/1,many,more.a"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b'"x"', b"null", b"[{}, 1]", b'{"a": NaN}', b'{"a":"\\ud800", "b": NaN}']
)
async def test_what_is_no_item_is_not_pushed(api: Api, raw: bytes) -> None:
    """400, and nothing of the request is stored."""
    dataset = await _filled(api)
    assert (await api.send("POST", f"/v2/datasets/{dataset}/items", raw=raw)).refusal == (400, "invalid-request")
    assert (await api.get(f"/v2/datasets/{dataset}")).data["itemCount"] == 0


async def test_half_a_surrogate_pair_survives(api: Api) -> None:
    """As in JavaScript: JSON shows it as it was sent; where text is written as UTF-8, it is U+FFFD."""
    dataset = await _filled(api)
    halves = b'{"a":"\\ud83d \\\\ud83d \\ud83d\\ude00","n":12345678901234567890123,"\\ude00":1}'
    path = f"/v2/datasets/{dataset}/items"
    assert (await api.send("POST", path, raw=b"[" + halves + b',{"b":1}]')).status == 201
    assert b'"a":"\\ud83d \\\\ud83d ' in (await api.get(path, format="jsonl")).body
    shown = {"a": "\ufffd \\ud83d \U0001f600", "n": 1.2345678901234568e22, "\ufffd": 1}
    assert (await api.get(path, omit="b")).body == [shown, {}]
    for form in ("csv", "html", "xml", "xlsx", "jsonl"):
        assert (await api.get(path, format=form)).status == 200


async def test_half_a_pair_is_looked_for_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that no half pair makes odd is not searched; one with any is, in a thread, so that others are served."""
    threads: list[bool] = []
    load = item_json.load_with_half_pairs

    def noted(body: bytes) -> Any:
        threads.append(threading.current_thread() is not threading.main_thread())
        return load(body)

    monkeypatch.setattr(dataset_routes, "load_with_half_pairs", noted)
    dataset = await _filled(api)
    path, escapes = f"/v2/datasets/{dataset}/items", b"\\n" * 400_000
    assert (await api.send("POST", path, raw=b'[{"a":"' + escapes + b'"')).status == 400
    assert (await api.send("POST", path, raw=b'[{"a":"' + escapes + b'\\ud800"}]')).status == 201
    assert threads == [True]
    assert (await api.get(f"/v2/datasets/{dataset}")).data["itemCount"] == 1


async def test_odd_values_survive(api: Api) -> None:
    """Unicode, deep nesting, and numbers beyond 64 bits as the nearest double."""
    item = {"ü\u0000😀": ["\u2028", {"": None}], "big": 2**63, "huge": 1e300, "deep": [[[[[[[[[[1]]]]]]]]]]}
    dataset = await _filled(api, item)
    await api.send("POST", f"/v2/datasets/{dataset}/items", raw=b'{"n": 123456789012345678901234567890}')
    assert (await api.get(f"/v2/datasets/{dataset}/items")).body == [item, {"n": 1.2345678901234568e29}]


async def test_a_storage_of_a_name_is_made_once(api: Api) -> None:
    """201 new, 200 known, whatever the case; renaming to a taken name is a conflict; deleting frees it."""
    for kind, conflict in [("datasets", "dataset"), ("key-value-stores", "key-value-store")]:
        first = await api.send("POST", f"/v2/{kind}", name="My-Store")
        again = await api.send("POST", f"/v2/{kind}", name="my-store")
        assert (first.status, again.status, again.data["id"]) == (201, 200, first.data["id"])
        assert (await api.get(f"/v2/{kind}/~my-store")).data["name"] == "My-Store"
        other = (await api.send("POST", f"/v2/{kind}")).data["id"]
        taken = await api.send("PUT", f"/v2/{kind}/{other}", {"name": "MY-store"})
        assert (taken.status, taken.error_type) == (409, f"{conflict}-name-not-unique")
        assert [item["id"] for item in (await api.get(f"/v2/{kind}")).data["items"]] == [first.data["id"]]
        assert (await api.get(f"/v2/{kind}", unnamed=1)).data["total"] == 2
        assert (await api.send("DELETE", f"/v2/{kind}/{first.data['id']}")).status == 204
        assert (await api.send("PUT", f"/v2/{kind}/{other}", {"name": "my-store"})).data["name"] == "my-store"
        assert (await api.get(f"/v2/{kind}/{first.data['id']}")).error_type == "record-not-found"
        assert (await api.send("POST", f"/v2/{kind}", name="../etc")).error_type == "invalid-value"


async def test_ids_of_one_kind_do_not_open_another(api: Api) -> None:
    """A dataset's id is no key-value store, and the other way round."""
    dataset = await _filled(api)
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    assert (await api.get(f"/v2/key-value-stores/{dataset}")).status == 404
    assert (await api.get(f"/v2/datasets/{store}/items")).status == 404
    assert (await api.send("PUT", f"/v2/key-value-stores/{dataset}/records/k", {"a": 1})).status == 404
    assert (await api.send("POST", f"/v2/datasets/{store}/items", {"a": 1})).status == 404


async def test_values_are_stored_as_they_come(api: Api) -> None:
    """PUT and POST store, GET and HEAD show bytes and type, DELETE forgets, also what is not there."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    path = f"/v2/key-value-stores/{store}/records/a.b-c!'()_9"
    put = await api.send("PUT", path, raw=b"\x00\xff", headers={"Content-Type": "image/x"})
    assert (put.status, put.body) == (201, {})
    answer = await api.get(path, attachment="true")
    assert (answer.body, answer.headers["Content-Type"]) == (b"\x00\xff", "image/x")
    head = await api.send("HEAD", path)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "2", b"")
    assert (await api.send("POST", path, {"n": 1})).status == 201
    assert (await api.get(path)).body == {"n": 1}
    assert (await api.send("DELETE", path)).status == 204
    assert (await api.send("DELETE", path)).status == 204
    assert (await api.get(path)).error_type == "record-not-found"
    assert (await api.send("HEAD", path)).status == 404


@pytest.mark.parametrize("key", ["a%20b", "%C3%BC", "a" * 257, "a%2Fb", "%00"])
async def test_a_key_of_other_characters_is_refused(api: Api, key: str) -> None:
    """400 `invalid-record-key`."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    path = f"/v2/key-value-stores/{store}/records/{key}"
    answer = await api.send("PUT", URL(path, encoded=True), {})  # type: ignore[arg-type]  # kept from being normalised
    assert (answer.status, answer.error_type) == (400, "invalid-record-key")


async def test_keys_are_listed_in_pages(api: Api) -> None:
    """In order of bytes, from a key on, of a prefix; each with its size and a URL that works."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    for key in ("b1", "a", "B", "b2", "b10"):
        await api.send("PUT", f"/v2/key-value-stores/{store}/records/{key}", raw=b"xyz")
    path = f"/v2/key-value-stores/{store}/keys"
    page = (await api.get(path, limit=3)).data
    assert [item["key"] for item in page["items"]] == ["B", "a", "b1"]
    assert (page["isTruncated"], page["nextExclusiveStartKey"], page["items"][0]["size"]) == (True, "b1", 3)
    rest = (await api.get(path, exclusiveStartKey="b1")).data
    assert ([item["key"] for item in rest["items"]], rest["isTruncated"]) == (["b10", "b2"], False)
    assert [item["key"] for item in (await api.get(path, prefix="b1")).data["items"]] == ["b1", "b10"]
    url = page["items"][0]["recordPublicUrl"].removeprefix(api.server.base_url)
    assert (await api.get(url)).body == b"xyz"
