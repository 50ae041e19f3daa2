"""Actors with the official SDK, unmodified."""

from tests.support.server_api import ACTORS, Api

SERVER = {"actors": (ACTORS,)}


async def test_an_actor_with_the_official_sdk_runs_as_at_home(api: Api) -> None:
    """Input, compressed pushes, a queue worked through in its order, a value, a terminal status message, the log."""
    task = await api.create_task("local/sdk", name="sdk")
    urls = ["http://a/", "http://b/"]
    given = {"count": 4, "urls": urls}
    run = await api.finish((await api.start(task, given)).data["id"])
    log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert (run["status"], run["statusMessage"]) == ("SUCCEEDED", "all done"), log
    numbered = [{"n": n, "text": "ü" * 600} for n in range(4)]
    assert await api.items(run) == [*numbered, {"last": True}, *({"url": url} for url in urls)]
    output = await api.get(f"/v2/actor-runs/{run['id']}/key-value-store/records/OUTPUT")
    assert output.body == {"given": given, "run": run["id"]}
    assert "working on {'count': 4, 'urls': ['http://a/', 'http://b/']}" in log
    counts = (await api.get(f"/v2/actor-runs/{run['id']}/request-queue")).data
    assert (counts["totalRequestCount"], counts["handledRequestCount"]) == (2, 2)


async def test_an_exception_under_the_official_sdk_fails_the_run(api: Api) -> None:
    """Exit code 91; what was pushed stays."""
    task = await api.create_task("local/sdk", name="sdk")
    run = await api.finish((await api.start(task, {"count": 0, "fail": "on purpose"})).data["id"])
    assert (run["status"], run["exitCode"]) == ("FAILED", 91)
    assert await api.items(run) == [{"last": True}]
