"""Whether a job file still has the text that was read: a fingerprint of the text before a point, kept in the ledger."""

from hashlib import sha256
from typing import TYPE_CHECKING

from batchrun.jobs.text_source import TextSource, read_errors_named

if TYPE_CHECKING:
    from _hashlib import HASH

#: Bytes at each end of the text that the fingerprints of older versions covered.
_OLD_BYTES = 64 << 10
#: Bytes that are hashed at a time.
_PIECE_BYTES = 1 << 20


class TextFingerprint:
    """Fingerprints of the text of one file, which can be read more than once.

    Args:
        source: the file.
        name: of the file, for messages.
    """

    def __init__(self, source: TextSource, name: str) -> None:
        self._source = source
        self._name = name
        #: The offset up to which the text was hashed last, and its hash.
        self._last: tuple[int, HASH] | None = None

    def hash_of(self, offset: int) -> "HASH":
        """Return a hash of the text before an offset, to which more text can be added."""
        if self._last is None or self._last[0] != offset:
            text_hash, left = sha256(), offset
            with read_errors_named(self._name), self._source.open() as stream:
                while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                    text_hash.update(piece)
                    left -= len(piece)
            self._last = offset, text_hash
        return self._last[1].copy()

    def matches(self, offset: int, fingerprint: bytes, *, is_seekable: bool) -> bool:
        """True if the text before an offset has a fingerprint, which an older version may have taken."""
        return self.hash_of(offset).digest() == fingerprint or (is_seekable and self._old(offset) == fingerprint)

    def _old(self, offset: int) -> bytes:
        tail = max(0, offset - _OLD_BYTES)
        with read_errors_named(self._name), self._source.open() as stream:
            head = stream.read(min(offset, _OLD_BYTES))
            stream.seek(tail)
            return sha256(b"%d\n%b\n%b" % (offset, head, stream.read(offset - tail))).digest()
