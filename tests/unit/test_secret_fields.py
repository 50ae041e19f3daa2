"""Secret fields of inputs: by their paths, or by their names; and texts without their values."""

import json
from urllib.parse import quote, urlencode

import orjson

from batchrun.policy.secret_fields import MASK, InputSecrets, SecretFields, without

INPUT = {
    "password": "hunter2-SECRET",
    "login": {"user": "u", "key": "nested-SECRET"},
    "shops": [{"url": "a", "apiToken": "first-SECRET"}, {"url": "b", "apiToken": "first"}],
    "note": "plain",
}


def test_secret_fields_are_masked_by_their_paths_and_nothing_else() -> None:
    """A star stands for any position; a whole object may be secret; a path that leads nowhere changes nothing."""
    secrets = SecretFields((("password",), ("login", "key"), ("shops", "*", "apiToken"), ("gone", "x")))
    assert secrets.masked(INPUT) == {
        "password": MASK,
        "login": {"user": "u", "key": MASK},
        "shops": [{"url": "a", "apiToken": MASK}, {"url": "b", "apiToken": MASK}],
        "note": "plain",
    }
    assert SecretFields((("login",),)).masked(INPUT) == {**INPUT, "login": MASK}
    assert SecretFields().masked(INPUT) == INPUT


def test_without_a_schema_names_decide() -> None:
    """At any depth; an author or a keyboard is no secret."""
    named = {"author": "a", "keyboard": "k", "initialCookies": [{"value": "x"}], "deep": [{"API-Key": 7}]}
    masked = SecretFields(None).masked({**INPUT, **named})
    assert (masked["password"], masked["login"]["key"]) == (MASK, "nested-SECRET")
    assert [shop["apiToken"] for shop in masked["shops"]] == [MASK, MASK]
    assert {name: masked[name] for name in named} == {**named, "initialCookies": MASK, "deep": [{"API-Key": MASK}]}


def test_texts_lose_secret_values() -> None:
    """The longest first, so that no part of one is left; short values would be found in ordinary words."""
    secrets = InputSecrets(SecretFields((("login",), ("shops", "*", "apiToken"), ("pin",))))
    texts = secrets.of(orjson.dumps({**INPUT, "pin": "a"}))
    assert texts == ("nested-SECRET", "first-SECRET", "first")
    assert InputSecrets(SecretFields((("*", "*", "*"),))).of(orjson.dumps(INPUT)) == ("first-SECRET", "first")
    assert without("first-SECRET is no first-rate nested-SECRET", texts) == f"{MASK} is no {MASK}-rate {MASK}"
    assert InputSecrets(SecretFields()).of(b"not read at all") == ()


def test_what_lies_under_an_override_is_secret_too() -> None:
    """A key stands in the task's input once, not in each line; also where a line replaces it."""
    secrets = InputSecrets(SecretFields((("key",),)), [{"key": "task-SECRET"}, {"key": "default", "note": "plain"}])
    secrets.add({"key": "edited-SECRET"})
    assert secrets.of(b'{"note":"n"}') == ("edited-SECRET", "task-SECRET", "default")
    assert secrets.of(b'{"key":"of a line SECRET"}') == (
        "of%20a%20line%20SECRET",
        "of a line SECRET",
        "of+a+line+SECRET",
        "edited-SECRET",
        "task-SECRET",
        "default",
    )


def test_fields_are_secret_by_any_schema_that_runs_have_had() -> None:
    """Without one, names decide."""
    now, before = SecretFields((("key",),)), SecretFields((("old",), ("key",)))
    assert now.joined(before).paths == (("key",), ("old",))
    assert (now.joined(None), now.joined(SecretFields(None))) == (now, now)


def test_texts_lose_secret_values_however_they_are_spelled() -> None:
    """Most Actors print their input as JSON, and put a password into a URL."""
    secret = 'pä"ss wörd'
    fields = InputSecrets(SecretFields((("password",), ("pin",))))
    secrets = fields.of(orjson.dumps({"password": secret, "pin": 839471, "n": 12345678}))
    given = {"password": secret, "pin": 839471}
    printed = (
        json.dumps(given),
        orjson.dumps(given).decode(),
        given,
        urlencode(given),
        quote(secret, safe=""),
        12345678,
    )
    log = " ".join(map(str, printed))
    assert without(log, secrets) == (
        '{"password": "***", "pin": ***} {"password":"***","pin":***}'
        " {'password': '***', 'pin': ***} password=***&pin=*** *** 12345678"
    )


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    """A log begins each line with its time; a file of credentials holds such a key among other texts."""
    key = "-----BEGIN KEY-----\nMIIEvQIBADAN\r\n  BgkqhkiG9w0B\nab==\n-----END KEY-----\n"
    account = json.dumps({"type": "x", "private_key": key}, indent=1)
    at = "2026-01-31T12:00:00.000Z"
    log = "".join(f"{at} {line}\n" for line in key.splitlines())
    masked = f"{at} {MASK}\n{at} {MASK}\n{at}   {MASK}\n{at} ab==\n{at} {MASK}\n"
    for value in (key, account):
        texts = InputSecrets(SecretFields((("key",),))).of(orjson.dumps({"key": value}))
        assert without(log, texts) == masked
        assert without(json.dumps({"got": value}), texts) == json.dumps({"got": MASK})
    deep = InputSecrets(SecretFields((("key",),))).of(orjson.dumps({"key": "[" * 1000 + "]" * 1000}))
    assert without("[" * 1000 + "]" * 1000, deep) == MASK


def test_a_secret_that_is_long_json_is_searched_for_by_so_many_texts() -> None:
    """As a whole, and by its first texts: each costs time for each message."""
    names = [f"secret-{number:06}" for number in range(5000)]
    texts = InputSecrets(SecretFields((("key",),))).of(orjson.dumps({"key": json.dumps([json.dumps(names), *names])}))
    found = [name for name in names if name in texts]
    assert found == names[: len(found)]
    assert 1000 < len(found) < 2000
    assert without(json.dumps([json.dumps(names), *names]), texts) == MASK


def test_any_json_is_masked() -> None:
    """An override that is nested as deep as JSON is read is masked as well."""
    deep: object = {"password": "x"}
    for _ in range(250):
        deep = [deep]
    body = orjson.dumps({"a": deep})
    assert b'"password":"***"' in orjson.dumps(SecretFields(None).masked(orjson.loads(body)))
