"""Executes Actors as local processes: environment, log, memory limit, time limit, end of the process group."""

import codecs
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.to_thread
import orjson
import structlog

from batchrun.model import RunStatus
from batchrun.runtime.error_containment import contained
from batchrun.runtime.shell_command import shell_command
from batchrun.server.catalog.actor_catalog import LocalCommand
from batchrun.server.ids import iso, now_ms
from batchrun.server.runs import process_groups
from batchrun.server.runs.hosted_run import (
    EXIT_KILLED,
    ActorProxy,
    HostedRun,
    RunEnd,
    append_log,
    ending_of,
    mark_status,
)
from batchrun.server.runs.process_group_guard import GroupGuard
from batchrun.server.runs.process_groups import GroupUsage, RunMark
from batchrun.server.store import run_table, storage_table
from batchrun.server.store.database import Database

_log = structlog.get_logger()

#: The server's variables that an Actor inherits, besides LC_*: what programs need to run, none that holds a token.
_INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP", "TEMP",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
        "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "NODE_PATH", "LD_LIBRARY_PATH",
        "DISPLAY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
        "PLAYWRIGHT_BROWSERS_PATH", "PUPPETEER_CACHE_DIR", "PUPPETEER_EXECUTABLE_PATH",
        "APIFY_DEFAULT_BROWSER_PATH", "APIFY_CHROME_EXECUTABLE_PATH",
        "CRAWLEE_DEFAULT_BROWSER_PATH", "CRAWLEE_CHROME_EXECUTABLE_PATH",
    }
)  # fmt: skip
#: Seconds between two measurements of all process groups.
_MEASURE_EVERY_S = 0.5
#: Seconds to wait for a killed group before its Run ends anyway.
_KILL_WAIT_S = 5
#: Max characters of an unfinished line in memory; a longer line is logged in pieces.
_MAX_LINE = 65_536
#: Characters of the end of a log in which a missing package is looked for: an error of Node and its stack.
_TAIL_CHARS = 4096
#: What Python, Node and the shell print for a package or program that is not installed.
_MISSING = re.compile(
    r"No module named '?(?P<package>\w+)|Cannot find (?:package|module) '(?P<node>[^'./][^']*)'"
    r"|^(?:/bin/)?sh: \d+: (?P<program>\S+): not found",
    re.MULTILINE,
)
_PROXY_UNUSED = "Actor succeeded, but it asked for a proxy and sent nothing through it: see its log for errors"
#: What Twisted prints if it takes a proxy's user and password for a part of its host's name. Apify's middleware for
#: Scrapy hands it such a URL for http:// pages, here as on the platform.
_PROXY_MISREAD = re.compile(r"(?:invalid hostname|no results for hostname lookup): \S[^\s:]*:\S[^\s@]*@")
_NO_PAGE = (
    "The Actor got no page through the proxy that it asked for: with Apify's middleware, Scrapy takes the proxy's user "
    "and password for a part of its host's name on http:// pages, here as on the platform. Give it https:// pages or "
    "no proxy"
)
#: A shell that starts the Actor when it reads a line, which is sent once its pid is stored. If the server dies before
#: that, the shell reads the end of its input and exits: no unknown orphan is left.
_GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@"', "sh")


class ProcessRunner:
    def __init__(
        self,
        database: Database,
        base_url: str,
        actor_proxy: ActorProxy,
        *,
        events_key_of: Callable[[str, int], str],
        allow_private_addresses: bool,
    ) -> None:
        self._database, self._base_url, self._actor_proxy = database, base_url, actor_proxy
        self._events_key_of = events_key_of
        #: Variables of the server's settings, for the bundled page-scraper.
        self._settings = {"BATCHRUN_ALLOW_PRIVATE_ADDRESSES": "1"} if allow_private_addresses else {}
        #: By the pid of its group's leader.
        self._running: dict[int, tuple[HostedRun, RunMark]] = {}
        self._over_memory: set[int] = set()
        self._meter = process_groups.Meter()
        self._guard = GroupGuard()
        #: Runs whose escaped processes are to be killed. One search covers all Runs that wait.
        self._to_clear: set[RunMark] = set()
        self._clearing = anyio.Lock()

    async def watch_memory(self) -> None:
        """Kill each process group that exceeds its Run's memory; runs until cancelled, when all groups end."""
        try:
            while True:
                began = anyio.current_time()
                await anyio.sleep(_MEASURE_EVERY_S)
                if self._running:
                    await self._measure(began)
        finally:
            await self._guard.close()

    async def _measure(self, began: float) -> None:
        with contained("memory_not_measured"):
            groups = {pid: mark for pid, (_, mark) in self._running.items()}
            usages = await anyio.to_thread.run_sync(self._meter.measure, groups)
            for pid, usage in usages.items():
                self._judge(pid, usage, anyio.current_time() - began)

    def _judge(self, pid: int, usage: GroupUsage, elapsed_s: float) -> None:
        if pid not in self._running:
            return
        live, _ = self._running[pid]
        live.note_usage(usage.resident_bytes, usage.cpu_s, elapsed_s)
        if usage.resident_bytes > live.memory_mb * 1024 * 1024:
            self._over_memory.add(pid)
            process_groups.end_group(pid)

    async def run(self, live: HostedRun, command: LocalCommand, token: str) -> RunEnd:
        """Execute one Run. Its process group is gone when this returns or is cancelled."""
        # The server listens before any Actor starts: an SDK that cannot connect here exits at once.
        key = self._events_key_of(live.id, live.resurrections)
        events = f"{self._base_url.replace('http', 'ws', 1)}/events/{live.id}?signature={key}"
        own = dict.fromkeys(_EVENTS, events) | self._settings
        environment = _environment(live, command, self._base_url, token, self._actor_proxy) | own
        argv = command.argv
        if await anyio.Path(command.own_python).exists():
            environment = _with_own_packages(environment, command)
            argv = (str(command.own_python), *argv[1:]) if argv[0] == sys.executable else argv
        try:
            process = await anyio.open_process(
                [*_GATE, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=command.cwd,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            message = f"The Actor could not be started: {error}"
            return RunEnd(status=RunStatus.FAILED, exit_code=EXIT_KILLED, message=message)
        mark = RunMark.of(live.id, token)
        self._running[process.pid] = live, mark
        try:
            return await self._attend(live, process, mark)
        finally:
            self._running.pop(process.pid, None)
            self._over_memory.discard(process.pid)

    async def _attend(self, live: HostedRun, process: anyio.abc.Process, mark: RunMark) -> RunEnd:
        try:
            await self._open_gate(live, process)
            with anyio.CancelScope(deadline=live.deadline) as limit:
                async with anyio.create_task_group() as children:
                    children.start_soon(self._copy_log, live, process)
                    await process.wait()
                    # Processes that the Actor has left behind keep its log open, and must not outlive the Run.
                    await self._end_all(process, mark)
            # A Run that is being aborted is ABORTED, even if its time limit is reached meanwhile.
            if limit.cancelled_caught and live.status is not RunStatus.ABORTING:
                await mark_status(self._database, live, RunStatus.TIMING_OUT)
                message = f"The Actor timed out after {live.doc['options']['timeoutSecs']} seconds"
                return RunEnd(status=RunStatus.TIMED_OUT, message=message)
            return await self._ending(live, process)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_all(process, mark)
                with anyio.move_on_after(_KILL_WAIT_S):
                    await process.aclose()

    async def _end_all(self, process: anyio.abc.Process, mark: RunMark) -> None:
        """Kill the group, wait until its leader is reaped, and kill the processes that have left the group."""
        process_groups.end_group(process.pid)
        await self._guard.remove(process.pid)
        with anyio.move_on_after(_KILL_WAIT_S):
            await process.wait()
        await self._end_escaped(mark)

    async def _end_escaped(self, mark: RunMark) -> None:
        """Kill the processes that have left a Run's group. Without a timeout: the Run may restart right after."""
        self._to_clear.add(mark)
        async with self._clearing:
            # Another caller's search may have covered this Run.
            if mark in self._to_clear:
                marks, self._to_clear = self._to_clear, set()
                await anyio.to_thread.run_sync(process_groups.end_runs, marks)

    async def _open_gate(self, live: HostedRun, process: anyio.abc.Process) -> None:
        await self._guard.add(process.pid)
        started = await anyio.to_thread.run_sync(process_groups.start_time, process.pid)
        await self._database.write(run_table.note_process, live.id, process.pid, started or "")
        if live.status is RunStatus.READY:
            await mark_status(self._database, live, RunStatus.RUNNING)
        assert process.stdin is not None
        try:
            await process.stdin.send(b"\n")
            await process.stdin.aclose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            _log.info("actor_process_vanished", run_id=live.id)

    async def _ending(self, live: HostedRun, process: anyio.abc.Process) -> RunEnd:
        exit_code = process.returncode or 0
        if process.pid in self._over_memory:
            message = f"The Actor ran out of its {live.memory_mb} MB of memory and was killed"
            return RunEnd(status=RunStatus.FAILED, exit_code=EXIT_KILLED, message=message, is_decisive=True)
        ending = ending_of(exit_code if exit_code >= 0 else 128 - exit_code)
        if exit_code and (missing := _missing_package(live)) is not None:
            await append_log(self._database, live, f"ACTOR: {missing}")
            return replace(ending, message=missing, is_decisive=True)
        if not exit_code and live.has_misread_proxy and not await self._has_items(live):
            await append_log(self._database, live, f"ACTOR: {_NO_PAGE}")
            return RunEnd(status=RunStatus.FAILED, exit_code=0, message=_NO_PAGE, is_decisive=True)
        if not exit_code and live.is_proxied and not live.has_used_proxy:
            await append_log(self._database, live, f"ACTOR: {_PROXY_UNUSED}")
            return replace(ending, message=_PROXY_UNUSED)
        return ending

    async def _has_items(self, live: HostedRun) -> bool:
        dataset = await self._database.read(storage_table.read, live.doc["defaultDatasetId"])
        return dataset is not None and dataset.count > 0

    async def _copy_log(self, live: HostedRun, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        async for chunk in process.stdout:
            lines, newline, rest = (rest + decoder.decode(chunk)).rpartition("\n")
            if len(rest) > _MAX_LINE:
                lines, newline, rest = lines + newline + rest, "", ""
            live.log_tail = (live.log_tail + lines + newline)[-_TAIL_CHARS:]
            live.has_misread_proxy = live.has_misread_proxy or _PROXY_MISREAD.search(lines) is not None
            await append_log(self._database, live, lines)
        live.log_tail += rest
        await append_log(self._database, live, rest)


def _missing_package(live: HostedRun) -> str | None:
    """Return what to do about the package that the end of the log names as missing."""
    named = list(_MISSING.finditer(live.log_tail))
    if not named or not isinstance(live.actor.runner, LocalCommand):
        return None
    package, node_package, program = named[-1].groups()
    what = f"program {program}" if program else f"package {package or node_package}"
    install = shell_command("batchrun", "actors", "install", live.actor.runner.cwd)
    return f"The {what} is not installed for this Actor; install what it needs: {install}"


def _with_own_packages(environment: Mapping[str, str], command: LocalCommand) -> dict[str, str]:
    """Return the environment in which the Actor's own packages are found first, and no others of Python's."""
    programs = command.own_python.parent
    kept = {name: value for name, value in environment.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    path = f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return kept | {"VIRTUAL_ENV": str(programs.parent), "PATH": path}


def _environment(
    live: HostedRun, command: LocalCommand, base_url: str, token: str, proxy: ActorProxy
) -> dict[str, str]:
    """Return the environment of the Actor's process. Variables without a value are left out: SDKs fail on them."""
    inherited = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    return {
        **inherited,
        **_proxy_exceptions(inherited, base_url),
        "PYTHONUNBUFFERED": "1",
        **command.variables,
        **_platform_variables(live, base_url, token, proxy),
    }


def _proxy_exceptions(environment: Mapping[str, str], base_url: str) -> dict[str, str]:
    """Return NO_PROXY with this machine and the server's address in it: no proxy is asked for the API or demo site."""
    if not any(name.lower().endswith("_proxy") and value for name, value in environment.items()):
        return {}
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    # An address of IPv6 is compared with its brackets by some clients, and others, as httpx, can read it only without
    # them: it stands there in both ways only if the server has such an address.
    host = str(urlsplit(base_url).hostname)
    own = dict.fromkeys(("localhost", "127.0.0.1", "::1", host, f"[{host}]" if ":" in host else host))
    exceptions = named if named.strip() == "*" else ",".join(filter(None, (named, *own)))
    return {"no_proxy": exceptions, "NO_PROXY": exceptions}


def _platform_variables(live: HostedRun, base_url: str, token: str, proxy: ActorProxy) -> dict[str, str]:
    doc, options, actor = live.doc, live.doc["options"], live.actor
    timeout_s, left_s = options["timeoutSecs"], live.deadline - anyio.current_time()
    values: dict[str, object] = {
        "ACTOR_ID": actor.id,
        "ACTOR_FULL_NAME": actor.full_name,
        "ACTOR_RUN_ID": doc["id"],
        "ACTOR_TASK_ID": doc.get("actorTaskId"),
        "ACTOR_BUILD_ID": actor.build_id,
        "ACTOR_BUILD_NUMBER": actor.build_number,
        "ACTOR_BUILD_TAGS": actor.build_tag,
        "ACTOR_DEFAULT_DATASET_ID": doc["defaultDatasetId"],
        "ACTOR_DEFAULT_KEY_VALUE_STORE_ID": doc["defaultKeyValueStoreId"],
        "ACTOR_DEFAULT_REQUEST_QUEUE_ID": doc["defaultRequestQueueId"],
        "ACTOR_STORAGES_JSON": orjson.dumps(doc["storageIds"]).decode() if "storageIds" in doc else None,
        "ACTOR_INPUT_KEY": live.input_key,
        "ACTOR_MEMORY_MBYTES": options["memoryMbytes"],
        "ACTOR_STARTED_AT": doc["startedAt"],
        "ACTOR_TIMEOUT_AT": iso(now_ms() + round(left_s * 1000)) if timeout_s else None,
        "ACTOR_MAX_PAID_DATASET_ITEMS": options.get("maxItems"),
        "ACTOR_MAX_TOTAL_CHARGE_USD": options.get("maxTotalChargeUsd"),
        "ACTOR_RESTART_ON_ERROR": "1" if options.get("restartOnError") else None,
        "ACTOR_WEB_SERVER_PORT": live.web_port,
        "ACTOR_WEB_SERVER_URL": doc["containerUrl"],
        # The SDKs' default is one port for all Runs.
        "ACTOR_STANDBY_PORT": live.web_port,
        "ACTOR_STANDBY_URL": doc["containerUrl"],
        # The Run's token has all permissions of its account. The platform's default has fewer, but a process of this
        # user could read the account's token from the disk anyway.
        "ACTOR_PERMISSION_LEVEL": "FULL_PERMISSIONS",
        "APIFY_IS_AT_HOME": "1",
        "APIFY_API_BASE_URL": base_url,
        "APIFY_API_PUBLIC_BASE_URL": base_url,
        # Read by Apify's command line.
        "APIFY_CLIENT_BASE_URL": base_url,
        "APIFY_TOKEN": token,
        "APIFY_USER_ID": doc["userId"],
        "APIFY_USER_IS_PAYING": "0",
        "APIFY_WORKFLOW_KEY": doc["id"],
        "APIFY_PROXY_HOSTNAME": proxy.hostname,
        "APIFY_PROXY_PORT": proxy.port,
        "APIFY_PROXY_PASSWORD": proxy.password or doc["id"],
        # Asked through the proxy, which answers in the place of this host.
        "APIFY_PROXY_STATUS_URL": "http://proxy.apify.com",
        # One core per 4 GB. Source: usage and resources.
        "APIFY_DEDICATED_CPUS": options["memoryMbytes"] / 4096,
        "APIFY_META_ORIGIN": doc["meta"]["origin"],
        "APIFY_HEADLESS": "1",
    }
    named = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return named | {alias: named[name] for alias, name in _ALIASES.items() if name in named}


#: The address of the Run's events, by its new name and by the one that SDKs still read.
_EVENTS = ("ACTOR_EVENTS_WEBSOCKET_URL", "APIFY_ACTOR_EVENTS_WS_URL")
#: Older names that SDKs still read. SDKs differ in which of the two they prefer, so both are set.
_ALIASES = {
    "APIFY_ACTOR_ID": "ACTOR_ID",
    "APIFY_ACT_ID": "ACTOR_ID",
    "APIFY_ACTOR_RUN_ID": "ACTOR_RUN_ID",
    "APIFY_ACT_RUN_ID": "ACTOR_RUN_ID",
    "APIFY_ACTOR_TASK_ID": "ACTOR_TASK_ID",
    "APIFY_ACTOR_BUILD_ID": "ACTOR_BUILD_ID",
    "APIFY_ACTOR_BUILD_NUMBER": "ACTOR_BUILD_NUMBER",
    "APIFY_DEFAULT_DATASET_ID": "ACTOR_DEFAULT_DATASET_ID",
    "APIFY_DEFAULT_KEY_VALUE_STORE_ID": "ACTOR_DEFAULT_KEY_VALUE_STORE_ID",
    "APIFY_DEFAULT_REQUEST_QUEUE_ID": "ACTOR_DEFAULT_REQUEST_QUEUE_ID",
    "APIFY_INPUT_KEY": "ACTOR_INPUT_KEY",
    "APIFY_MEMORY_MBYTES": "ACTOR_MEMORY_MBYTES",
    "APIFY_STARTED_AT": "ACTOR_STARTED_AT",
    "APIFY_TIMEOUT_AT": "ACTOR_TIMEOUT_AT",
    "APIFY_CONTAINER_PORT": "ACTOR_WEB_SERVER_PORT",
    "APIFY_CONTAINER_URL": "ACTOR_WEB_SERVER_URL",
}
