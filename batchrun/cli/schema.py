"""`batchrun schema`: the JSON Schema of the configuration, for editors."""

import sys

import orjson

from batchrun.config import Config


def command() -> None:
    """Print the JSON Schema of a batch's TOML file, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    schema["title"] = "A batchrun batch"
    sys.stdout.buffer.write(orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
