"""Picks up changed files of Actors while the server runs, and numbers each state of them as a build."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from batchrun.errors import ConfigError
from batchrun.model import JsonObject
from batchrun.runtime.error_containment import contained
from batchrun.server.accounts.accounts import Accounts
from batchrun.server.catalog import actor_files
from batchrun.server.catalog.actor_catalog import Actor, Catalog, LocalCommand, actor_folders, read_actor
from batchrun.server.catalog.build_object import build_doc
from batchrun.server.ids import now_ms
from batchrun.server.settings import ServerSettings
from batchrun.server.store import build_table
from batchrun.server.store.database import Database
from batchrun.server.webhooks.webhook_book import WebhookBook

_log = structlog.get_logger()


class ChangedActors:
    """Keeps the catalog equal to the Actor directories on disk."""

    def __init__(
        self,
        settings: ServerSettings,
        database: Database,
        catalog: Catalog,
        accounts: Accounts,
        *,
        webhook_book: WebhookBook,
        expect: Callable[[list[JsonObject]], None],
    ) -> None:
        self._settings, self._database, self._catalog, self._accounts = settings, database, catalog, accounts
        self._webhooks, self._expect = webhook_book, expect
        #: Folder -> its last signature, and the id of its Actor.
        self._seen: dict[Path, tuple[str, str | None]] = {}

    async def take_in_all(self) -> None:
        """Number the builds of all Actors in the catalog."""
        for actor in self._catalog:
            await self._take_in(actor)
        ids = {actor.runner.cwd: actor.id for actor in self._catalog if isinstance(actor.runner, LocalCommand)}
        for folder in await anyio.to_thread.run_sync(self._folders):
            signature = await anyio.to_thread.run_sync(actor_files.signature, folder)
            self._seen[folder] = signature, ids.get(folder)
        for folder, error in self._catalog.broken.items():
            _log.warning("actor_broken", folder=str(folder), error=error)

    async def watch(self) -> None:
        """Pick up changes of directories; runs until cancelled."""
        while self._settings.actors:
            await anyio.sleep(self._settings.reload_every_s)
            with contained("actors_not_read"):
                await self.look()

    async def look(self) -> None:
        folders = await anyio.to_thread.run_sync(self._folders)
        for folder in folders:
            signature = await anyio.to_thread.run_sync(actor_files.signature, folder)
            if self._seen.get(folder, ("", None))[0] != signature:
                await self._look_at(folder, signature)
        for folder in self._seen.keys() - set(folders):
            _, actor_id = self._seen.pop(folder)
            self._catalog.broken.pop(folder, None)
            if actor_id is not None:
                self._catalog.remove(actor_id)
                _log.info("actor_removed", folder=str(folder))

    def _folders(self) -> list[Path]:
        return [folder.resolve() for path in self._settings.actors for folder in actor_folders(path)]

    async def _look_at(self, folder: Path, signature: str) -> None:
        _, before_id = self._seen.get(folder, ("", None))
        self._seen[folder] = signature, before_id
        try:
            actor = await anyio.to_thread.run_sync(read_actor, folder, self._settings.username)
        except ConfigError as error:
            # Files are often half-written while they are edited: the Actor stays as it was.
            self._catalog.broken[folder] = str(error)
            _log.warning("actor_broken", folder=str(folder), error=str(error))
            return
        self._catalog.broken.pop(folder, None)
        self._seen[folder] = signature, actor.id
        if before_id not in (None, actor.id):
            self._catalog.remove(str(before_id))
        taken_in = await self._take_in(actor)
        _log.info("actor_taken_in", actor=taken_in.full_name, build_number=taken_in.build_number)

    async def _take_in(self, actor: Actor) -> Actor:
        digest = "inline"
        if isinstance(actor.runner, LocalCommand):
            digest = await anyio.to_thread.run_sync(actor_files.digest, actor.runner.cwd)
        at_ms = now_ms()

        def describe(build_no: int) -> JsonObject:
            owner_id = self._accounts.owner_id_of(actor.username)
            return build_doc(replace(actor, build_no=build_no), owner_id, at_ms)

        dispatches_of = self._webhooks.dispatches_of_build
        build_no, built_ms, dispatches = await self._database.write(
            build_table.take_in, actor.id, actor.version, digest, at_ms, describe, dispatches_of
        )
        self._expect(dispatches)
        taken_in = replace(actor, build_no=build_no, built_ms=built_ms)
        self._catalog.put(taken_in)
        return taken_in
