"""Templates of webhooks: where variables are put in, and what comes of broken ones."""

import orjson
import pytest

from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.webhooks.webhook_templates import (
    DEFAULT_PAYLOAD,
    PayloadTooLarge,
    check,
    render,
    render_headers,
)

VARIABLES = {"userId": "u1", "eventData": {"actorRunId": 'r"1'}, "resource": {"n": [1, None]}}


def test_the_default_payload_is_json_of_all_variables() -> None:
    """What is unknown is null."""
    payload = orjson.loads(render(DEFAULT_PAYLOAD, VARIABLES, interpolates_strings=False))
    assert payload == {**VARIABLES, "createdAt": None, "eventType": None}


@pytest.mark.parametrize(
    ("template", "interpolates", "expected"),
    [
        ('{"a": {{eventData.actorRunId}}}', False, {"a": 'r"1'}),
        ('{"a": {{resource.n}}}', False, {"a": [1, None]}),
        ('{"a": {{ nothing.here }}}', False, {"a": None}),
        ('{"a": "run {{eventData.actorRunId}}"}', False, {"a": "run {{eventData.actorRunId}}"}),
        ('{"a": "run {{eventData.actorRunId}} {{resource}}"}', True, {"a": 'run r"1 {"n":[1,null]}'}),
        ('{"{{userId}}": "\\"{{userId}}"}', True, {"u1": '"u1'}),
    ],
)
def test_variables_are_put_in(template: str, interpolates: bool, expected: object) -> None:
    """As JSON outside of strings; in strings as text, and only if asked; the result stays JSON."""
    assert orjson.loads(render(template, VARIABLES, interpolates_strings=interpolates)) == expected


@pytest.mark.parametrize("template", ["", "{", "[]", '{"a": }', 7, '{"a": {{userId}}', f'{{"a": "{"x" * 65_536}"}}'])
def test_a_template_that_is_no_object_or_too_long_is_refused(template: object) -> None:
    """400, naming the property."""
    with pytest.raises(ErrorAnswer, match="payloadTemplate"):
        check("payloadTemplate", template)


@pytest.mark.parametrize("end", ["", "\\"])
def test_a_string_without_an_end_is_read_once(end: str) -> None:
    """From each of its quotes to the end, 64 KB took minutes, in which the server answered nobody."""
    with pytest.raises(ErrorAnswer, match="payloadTemplate"):
        check("payloadTemplate", '"' + '\\"' * 32_000 + end)


def test_headers_that_cannot_be_sent_are_left_out() -> None:
    """Line breaks and odd names would let a value write headers of its own."""
    template = '{"X-Ok": "{{userId}}", "X-Bad": "a\\r\\nX-Evil: 1", "in valid": "x", "X-Number": 7}'
    headers = render_headers({"headersTemplate": template, "shouldInterpolateStrings": True}, VARIABLES)
    assert headers == {"X-Ok": "u1", "X-Number": "7"}


@pytest.mark.parametrize(("part", "interpolates"), [("{{a}}", False), ('"{{a}}"', True)])
def test_what_a_template_makes_is_bounded(part: str, interpolates: bool) -> None:
    """64 KB of variables could repeat a long value thousands of times."""
    template = f"[{','.join([part] * 100)}]"
    assert len(render(template, {"a": "x" * 10_000}, interpolates_strings=interpolates)) > 1_000_000
    with pytest.raises(PayloadTooLarge):
        render(template, {"a": "x" * 20_000}, interpolates_strings=interpolates)
