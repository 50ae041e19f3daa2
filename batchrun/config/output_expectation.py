"""What `[output]` expects of the items of a succeeded Run.

It stands apart from the table: JSON Schemas are not needed before the first request.
"""

from codecs import BOM_UTF8

from batchrun.config.output_settings import OutputConfig
from batchrun.config.text_bounds import parse_json, read_bounded
from batchrun.errors import ConfigError
from batchrun.policy.expectation import Expectation


def expectation(output: OutputConfig) -> Expectation | None:
    """Return what a succeeded Run must have in its dataset; None if nothing is expected.

    Raises:
        ConfigError: the schema cannot be read, or is not a JSON Schema that can be used.
    """
    if output.expect_items_min is None and output.expect_item_schema is None:
        return None
    file = output.expect_item_schema
    try:
        schema = None if file is None else parse_json(read_bounded(file).removeprefix(BOM_UTF8))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", key="output.expect_item_schema", file=file) from error
    except ValueError as error:
        raise ConfigError(str(error), key="output.expect_item_schema", file=file) from error
    try:
        return Expectation(items_min=output.expect_items_min, schema=schema)
    except ValueError as error:
        raise ConfigError(f"cannot be used: {error}", key="output.expect_item_schema", file=file) from error
