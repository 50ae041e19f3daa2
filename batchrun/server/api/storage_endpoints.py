"""The endpoints that datasets, key-value stores and request queues share: of the collection and of one storage."""

from collections.abc import Callable

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.callers import Caller
from batchrun.server.api.access_rights import DEFAULT_ACCESS, access_of
from batchrun.server.api.addresses import RUN_PREFIXES, own_storage_of, storage_of
from batchrun.server.content.url_signatures import storage_signature
from batchrun.server.error_answers import ErrorAnswer, value_invalid
from batchrun.server.ids import iso, now_ms
from batchrun.server.names import check_name
from batchrun.server.routing.call import Call, data_answer, empty_answer, page_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import storage_table
from batchrun.server.store.storage_table import Kind, Storage

#: Returns the properties that only this kind of storage shows.
Describe = Callable[[Call, Storage], JsonObject]


def signing_key(call: Call, storage: Storage) -> str | None:
    """Return the secret that signs the storage's URLs; None for callers who are not shown it.

    A signed URL outlives every token. So a Run is shown the secrets of its own storages, and a webhook none.
    """
    if call.caller is Caller.RUN:
        is_own = call.live is not None and storage.run_id == call.live.id
    else:
        is_own = call.caller is Caller.ACCOUNT and call.is_by(storage.user_id)
    return call.backend.tokens.signing_key_of(storage.id) if is_own else None


def signing_property(secret: str | None) -> JsonObject:
    """Return the property of a storage that shows the secret; empty without one."""
    return {"urlSigningSecretKey": secret} if secret is not None else {}


def storage_query(secret: str | None, storage: Storage) -> str:
    """Return the query with the storage's signature; empty without a secret."""
    return f"?signature={storage_signature(secret, storage.id)}" if secret is not None else ""


class StorageEndpoints:
    def __init__(self, kind: Kind, conflict: str, describe: Describe) -> None:
        self._kind, self._conflict, self._describe = kind, conflict, describe

    def add_routes(self, table: RouteTable, collection: str, shortcut: str) -> tuple[str, ...]:
        """Serve a collection; return the paths of one storage: by its id or name, and by way of a Run."""
        table.add("GET", collection, self.list_all)
        table.add("POST", collection, self.get_or_create)
        paths = (f"{collection}/{{storage}}", *(f"{prefix}/{shortcut}" for prefix in RUN_PREFIXES))
        for one in paths:
            table.add("GET", one, self.get, needs_token=False)
            table.add("PUT", one, self.update)
            table.add("DELETE", one, self.delete)
        return paths

    async def list_all(self, call: Call) -> web.Response:
        """List named storages; with `unnamed=1` the others too. The list shows only the account's own."""
        offset, limit, is_descending = call.query.page()
        ownership = call.query.text("ownership") or "ownedByMe"
        if ownership not in ("ownedByMe", "sharedWithMe"):
            raise value_invalid("Parameter ownership must be ownedByMe or sharedWithMe")
        if ownership == "sharedWithMe":
            return page_answer([], 0, offset, limit, is_descending=is_descending)
        total, found = await call.backend.database.read(
            storage_table.page, self._kind, call.user.id, offset, limit, is_descending, call.query.boolean("unnamed")
        )
        docs = [self._doc(call, storage) for storage in found]
        return page_answer(docs, total, offset, limit, is_descending=is_descending)

    async def get_or_create(self, call: Call) -> web.Response:
        name = call.query.text("name")
        if name is not None:
            check_name(name, self._kind.thing)
        storage, is_new = await call.backend.database.write(
            storage_table.get_or_create, self._kind, call.user.id, name, now_ms()
        )
        location = {"Location": f"{call.backend.base_url}{call.request.path.rstrip('/')}/{storage.id}"}
        return data_answer(self._doc(call, storage), 201 if is_new else 200, location if is_new else None)

    async def get(self, call: Call) -> web.Response:
        return data_answer(self._doc(call, await storage_of(call, self._kind)))

    async def update(self, call: Call) -> web.Response:
        """Rename a storage (null removes the name), or set its general access."""
        storage, given = await own_storage_of(call, self._kind), await call.json_object()
        if (access := access_of(given)) is not None:
            await call.backend.database.write(storage_table.set_access, storage, access)
        if "name" in given:
            name = None if given["name"] is None else check_name(given["name"], self._kind.thing)
            if not await call.backend.database.write(storage_table.rename, storage, name, now_ms()):
                raise ErrorAnswer(409, self._conflict, f"{self._kind.thing} with name {name} already exists")
        return data_answer(self._doc(call, await storage_of(call, self._kind)))

    async def delete(self, call: Call) -> web.Response:
        storage = await own_storage_of(call, self._kind)
        await call.backend.database.write(storage_table.delete, storage)
        return empty_answer()

    def _doc(self, call: Call, storage: Storage) -> JsonObject:
        modified_at = iso(storage.modified_ms)
        return {
            "id": storage.id,
            "name": storage.name,
            "userId": storage.user_id,
            "username": call.backend.accounts.username_of(storage.user_id),
            "createdAt": iso(storage.created_ms),
            "modifiedAt": modified_at,
            "accessedAt": modified_at,
            "actId": storage.act_id,
            "actRunId": storage.run_id,
            "generalAccess": storage.access or DEFAULT_ACCESS,
            **self._describe(call, storage),
        }
