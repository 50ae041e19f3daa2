"""Items in every format, named views, records as an archive, and who has come to a request queue."""

import csv
import html
import io
import re
import threading
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import orjson
import pytest

from batchrun.server.content.item_views import ItemView, view_of
from batchrun.server.content.query_parameters import Query
from tests.support.server_api import Api, open_api

ITEMS = [
    {"name": "Paul <b>", "n": 1, "address": [{"type": "home", "city": "Ĉikago"}, {"type": "office", "city": None}]},
    {"name": '=1+1,"x"', "@": {"kind": "odd & even"}, "#": "only a text", "0 bad tag": True},
]


async def _dataset(api: Api, items: Any = ITEMS) -> str:
    created = (await api.send("POST", "/v2/datasets")).data["id"]
    assert (await api.send("POST", f"/v2/datasets/{created}/items", items)).status == 201
    return f"/v2/datasets/{created}/items"


async def test_xml_is_what_the_reference_says(api: Api) -> None:
    """Arrays repeat their element, `@` gives attributes, `#` the text; root and row can be named."""
    path = await _dataset(api)
    answer = await api.get(path, format="xml", xmlRoot="people", xmlRow="person")
    root = ET.fromstring(answer.body)
    assert answer.headers["Content-Type"] == "application/xml; charset=utf-8"
    assert (root.tag, [child.tag for child in root]) == ("people", ["person", "person"])
    assert [(one.findtext("type"), one.findtext("city")) for one in root[0].findall("address")] == [
        ("home", "Ĉikago"),
        ("office", ""),
    ]
    assert root[0].findtext("name") == "Paul <b>"
    assert root[1].attrib == {"kind": "odd & even"}
    assert root[1].findtext("_0_bad_tag") == "true"


async def test_an_element_without_children_shows_its_text(api: Api) -> None:
    """`#` stands for the text."""
    path = await _dataset(api, [{"address": [{"@": {"type": "office"}, "#": "unknown"}]}])
    (address,) = ET.fromstring((await api.get(path, format="xml")).body)[0]
    assert (address.attrib, address.text) == ({"type": "office"}, "unknown")


async def test_rss_is_a_channel_of_items(api: Api) -> None:
    """With a title that can be given."""
    path = await _dataset(api)
    channel = ET.fromstring((await api.get(path, format="rss", feedTitle="News & more")).body)[0]
    assert channel.findtext("title") == "News & more"
    assert [item.findtext("name") for item in channel.findall("item")] == ["Paul <b>", '=1+1,"x"']


async def test_html_is_a_table_that_runs_nothing(api: Api) -> None:
    """What an Actor stores is text."""
    path = await _dataset(api, [{"a": "<script>alert(1)</script>"}])
    answer = await api.get(path, format="html")
    assert b"<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in answer.body
    assert b"<script" not in answer.body


async def test_xlsx_is_a_sheet_of_texts(api: Api) -> None:
    """An archive with one sheet: names of columns, then rows; nothing is a formula."""
    path = await _dataset(api)
    answer = await api.get(path, format="xlsx", fields="name,n", attachment="true")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="dataset.xlsx"'
    assert _xlsx_rows(answer.body) == [["name", "n"], ["Paul <b>", "1"], ['=1+1,"x"', ""]]
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert b"<f" not in archive.read("xl/worksheets/sheet1.xml")


@pytest.mark.parametrize("name", ["csv", "html", "xml", "rss", "xlsx", "json", "jsonl"])
async def test_any_item_can_be_written_in_any_format(api: Api, name: str) -> None:
    """Control characters, lone surrogates' substitutes, depth, odd names, many items: never a 500."""
    odd: dict[str, Any] = {"a\u0000b": "\u0001\u000b", "": {"": [[], {}, [None]]}, "ü": "\ufffe", "x:y": 1e300}
    path = await _dataset(api, [odd] * 60)
    answer = await api.get(path, format=name)
    assert answer.status == 200
    if name in ("xml", "rss"):
        ET.fromstring(answer.body)
    assert (await api.get(await _dataset(api, []), format=name)).status == 200


def _csv_rows(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline="")))


def _html_rows(body: bytes) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", body.decode())
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def _xlsx_rows(body: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        sheet = ET.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    return [[cell.text or "" for cell in row.iter(f"{space}t")] for row in sheet.iter(f"{space}row")]


def _xml_rows(body: bytes) -> list[list[str]]:
    rows = [[part.text or "" for part in item] for item in ET.fromstring(body).iter("item")]
    return [["n", "text", "late"], *([*row, ""][:3] for row in rows)]


@pytest.mark.parametrize(
    ("name", "parse"),
    [("csv", _csv_rows), ("html", _html_rows), ("xlsx", _xlsx_rows), ("xml", _xml_rows), ("rss", _xml_rows)],
)
async def test_a_large_dataset_is_written_in_pages(
    api: Api, page_sizes: list[int], name: str, parse: Callable[[bytes], list[list[str]]]
) -> None:
    """No more than a page of it is read at once, and a column that only the last item has is a column of all."""
    path = await _dataset(api, [{"n": n, "text": "ü" * 50} for n in range(2400)])
    assert (await api.send("POST", path, [{"n": 2400, "text": "", "late": "<&>"}])).status == 201
    answer = await api.get(path, format=name)
    assert "Content-Length" not in answer.headers
    assert set(page_sizes) == {1000, 401}
    rows = parse(answer.body)
    assert (rows[0], len(rows)) == (["n", "text", "late"], 2402)
    assert rows[2400] == ["2399", "ü" * 50, ""]
    assert [html.unescape(cell) for cell in rows[2401]] == ["2400", "", "<&>"]
    assert rows[1][0] == "0"
    some = await api.get(path, format=name, offset=1000, limit=1200, desc=1)
    assert [row[0] for row in parse(some.body)[1:]] == [str(n) for n in range(1400, 200, -1)]


async def test_a_head_has_no_body_however_long_the_answer_would_be(api: Api) -> None:
    """Of items in any format, of an archive, of a log: the next answer on the connection is whole."""
    path = await _dataset(api, [{"n": n} for n in range(1500)])
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    run = (await api.send("POST", "/v2/actors/test~echo/runs", {"raise": "a line in the log"}, waitForFinish=60)).data
    queries = ["format=json", "format=csv", "format=xlsx"]
    streamed = [*(f"{path}?{query}" for query in queries), f"/v2/key-value-stores/{store}/records"]
    for address in (*streamed, f"/v2/actor-runs/{run['id']}/log"):
        head = await api.send("HEAD", address)
        assert (head.status, head.body) == (200, b""), address
        assert (await api.get("/v2/users/me")).data["username"] == "local", address


async def test_a_wrong_parameter_is_refused_before_the_first_page(api: Api) -> None:
    """400, however large the dataset is."""
    path = await _dataset(api, [{"n": n} for n in range(1500)])
    assert (await api.get(path, format="csv", delimiter="ab")).refusal == (400, "invalid-value")


async def test_a_view_of_the_actors_schema_shapes_items(tmp_path: Path) -> None:
    """Its transformation, unless the request says otherwise; a view that is not there is refused."""
    folder = anyio.Path(tmp_path / "actors" / "viewed")
    await (folder / ".actor").mkdir(parents=True)
    views = {"overview": {"title": "O", "transformation": {"fields": ["url"], "unwind": ["pages"]}}}
    schema = {"actorSpecification": 1, "fields": {}, "views": views}
    await (folder / ".actor" / "dataset.json").write_bytes(orjson.dumps(schema))
    definition = {"name": "viewed", "version": "0.1", "storages": {"dataset": "./dataset.json"}}
    await (folder / ".actor" / "actor.json").write_bytes(orjson.dumps(definition))
    await (folder / "__main__.py").write_text("")
    async with open_api(tmp_path / "server", actors=(Path(folder),)) as api:
        run = (await api.send("POST", "/v2/actors/local~viewed/runs", waitForFinish=60)).data
        path = f"/v2/datasets/{run['defaultDatasetId']}/items"
        await api.send("POST", path, {"host": "h", "pages": [{"url": 1}, {"url": 2}]})
        assert (await api.get(path, view="overview")).body == [{"url": 1}, {"url": 2}]
        assert (await api.get(path, view="overview", fields="host")).body == [{"host": "h"}, {"host": "h"}]
        assert (await api.get(path, view="nothing")).status == 400


async def test_records_come_as_an_archive(api: Api) -> None:
    """All of them, or those with a prefix; no name leads out of a directory."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    stored = {"a.txt": b"one", "ab": b"two" * 100_000, "...": b"three"}
    for key, value in stored.items():
        put = await api.send("PUT", f"/v2/key-value-stores/{store}/records/{key}", raw=value)
        assert put.status == 201, key
    answer = await api.get(f"/v2/key-value-stores/{store}/records")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {"a.txt": b"one", "ab": b"two" * 100_000, "%2E%2E%2E": b"three"}
    some = await api.get(f"/v2/key-value-stores/{store}/records", prefix="ab")
    with zipfile.ZipFile(io.BytesIO(some.body)) as archive:
        assert archive.namelist() == ["ab"]


async def test_a_queue_knows_that_several_clients_have_come(api: Api) -> None:
    """One is not many; a call without a key is a new one, which makes it shared, for good."""
    queue = f"/v2/request-queues/{(await api.send('POST', '/v2/request-queues')).data['id']}"
    seen = []
    for client in ("one", "one", None, "one"):
        query = {} if client is None else {"clientKey": client}
        seen.append((await api.get(f"{queue}/head", **query)).data["hadMultipleClients"])
    assert seen == [False, False, True, True]
    assert (await api.get(queue)).data["hadMultipleClients"] is True


async def test_a_view_that_takes_long_is_made_in_a_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short page may name properties to unwind or to flatten: others are served meanwhile."""
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    await api.send("POST", f"/v2/datasets/{dataset}/items", [{"a": {"b": 1}}] * 100)
    threads: list[bool] = []
    apply = ItemView.apply

    def noted(view: ItemView, items: Iterable[Any]) -> list[Any]:
        threads.append(threading.current_thread() is not threading.main_thread())
        return apply(view, items)

    monkeypatch.setattr(ItemView, "apply", noted)
    slow = {"flatten": "a"}, {"unwind": "a"}, {"simplified": "1"}, {"fields": ",".join(map(str, range(300)))}
    for view in ({"clean": "1"}, {"fields": "a,b"}, *slow):
        assert len((await api.get(f"/v2/datasets/{dataset}/items", **view)).body) in (0, 100)
    assert threads == [False, False, True, True, True, True]


@pytest.mark.parametrize("name", ["fields", "omit", "unwind", "flatten"])
async def test_a_view_names_no_more_than_a_page_can_be_gone_through_for(api: Api, name: str) -> None:
    """Each name is a look at each item."""
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    answer = await api.get(f"/v2/datasets/{dataset}/items", **{name: ",".join("a" * 2001)})
    assert (answer.status, f"Parameter {name} may have up to" in answer.body["error"]["message"]) == (400, True)


def test_names_to_leave_out_are_looked_up() -> None:
    """Each property of each item is compared with them: thousands with thousands, if they were a list."""
    view = view_of(Query("omit=a,b"))
    assert (view.omit, view.apply([{"a": 1, "c": 2}])) == (frozenset("ab"), [{"c": 2}])
