"""`batchrun schema`: the JSON Schema of the configuration, for editors."""

import sys

import orjson

from batchrun.config import Config
from batchrun.config.worker_config import WorkerConfig


def print_schema(*, for_worker: bool) -> None:
    """Print the JSON Schema of a batch file, or of worker.toml."""
    model, title = (WorkerConfig, "A batchrun worker") if for_worker else (Config, "A batchrun batch")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(), "title": title}
    sys.stdout.buffer.write(orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
