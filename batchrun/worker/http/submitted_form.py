"""Makes a submission of a batch's form."""

from datetime import UTC, datetime

from pydantic import ValidationError

from batchrun.config.load import as_config_error
from batchrun.worker.http.batch_upload import Form
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.submission import FILES, Submission

#: Max characters of a batch's name.
MAX_NAME = 200


def submission_from(submission_id: str, form: Form, key: str | None) -> Submission:
    """Return the batch that a form submits; a value that cannot be is Refused."""
    texts = form.texts
    if ("config" in texts) == ("profile" in texts):
        raise Refused(400, "bad-form", "send either config, the text of a batch file, or profile, the name of one")
    if "profile" in texts and form.jobs_file is None:
        raise Refused(400, "bad-form", "jobs: is missing; a profile needs a job file")
    name = texts.get("name") or form.jobs_stem or submission_id
    if len(name) > MAX_NAME or not name.isprintable():
        raise Refused(400, "bad-value", f"name: send at most {MAX_NAME} printable characters")
    numbers = {"weight": float, "priority": int, "shards": int}
    given = {field: form.number(field, kind) for field, kind in numbers.items()}
    try:
        return Submission(
            id=submission_id,
            name=name,
            created_at=datetime.now(UTC),
            profile=texts.get("profile"),
            batch_file=FILES["config"] if "config" in texts else None,
            jobs_file=form.jobs_file,
            schema_file=FILES["schema"] if "schema" in texts else None,
            settings=form.settings(),
            idempotency_key=key,
            content_digest=form.digest if key is not None else None,
            **{field: value for field, value in given.items() if value is not None},
        )
    except ValidationError as error:
        raise Refused(400, "bad-value", str(as_config_error(error, None, {}, Submission))) from None
