"""A token that is replaced while requests are under way; its second reading is done by a thread."""

import pytest
from pydantic import SecretStr

from batchrun.errors import ConfigError, Unauthorized
from batchrun.model import RunId
from tests.support.scripted_session import Response, api_refusal, client_of

RUN = {"id": "r", "status": "SUCCEEDED", "startedAt": "2026-01-01T00:00:00.000Z"}


async def test_a_replaced_token_is_read_again_and_used() -> None:
    """The refused read is sent with the new token, and so are all later ones."""
    client, session = client_of(
        lambda _: Response(data=RUN) if session.sent[-1].authorization == "Bearer new" else api_refusal(401, "x"),
        read_token_again=lambda: SecretStr("new"),
    )
    await client.get_run(RunId("r"))
    await client.get_run(RunId("r"))
    assert [sent.authorization for sent in session.sent] == ["Bearer old", "Bearer new", "Bearer new"]


async def test_a_token_file_that_cannot_be_read_leaves_the_token_as_it_is() -> None:
    """The account is asked, and decides."""

    def unreadable() -> SecretStr | None:
        raise ConfigError("cannot be read")

    client, session = client_of(lambda _: api_refusal(401, "x"), read_token_again=unreadable)
    with pytest.raises(Unauthorized):
        await client.get_run(RunId("r"))
    assert [sent.path for sent in session.sent] == ["actor-runs/r", "users/me"]
