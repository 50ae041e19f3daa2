"""What others have compressed with zstd: a few bytes may say that they hold terabytes."""

import threading
from io import BufferedIOBase, BufferedReader, BytesIO, RawIOBase
from typing import Any

import zstandard

#: Content up to this size is decompressed at once, and larger content as it is read.
_MAX_AT_ONCE_BYTES = 16 << 20
#: Max bytes that decompressing content piece by piece looks back for. The fastest levels look back for 1 MB at most.
_MAX_WINDOW_BYTES = 8 << 20
_READ_BYTES = 1 << 20

_of_thread = threading.local()


def decompress_bounded(encoded: bytes, max_bytes: int) -> bytes:
    """Return what is compressed; one decompressor per thread, since making one takes longer than most entries of a log.

    Raises:
        ValueError: it is damaged, or larger than `max_bytes`; the text says so, as after "it ".
    """
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    try:
        # Content of unknown size is refused by the decompressor.
        if zstandard.frame_content_size(encoded) > max_bytes:
            raise ValueError(f"holds more than {max_bytes:,} bytes")
        decompressed: bytes = _of_thread.decompressor.decompress(encoded)
    except zstandard.ZstdError as error:
        raise ValueError(f"is not compressed with zstd: {error}") from error
    return decompressed


def open_bounded(encoded: bytes, max_bytes: int) -> tuple[BufferedIOBase, int]:
    """Return what is compressed as a stream, and how many bytes it says to have; large content is never held whole.

    Raises:
        ValueError: as `decompress_bounded` does; also while the stream is read.
    """
    try:
        size = zstandard.frame_content_size(encoded)
    except zstandard.ZstdError as error:
        raise ValueError(f"is not compressed with zstd: {error}") from error
    if not _MAX_AT_ONCE_BYTES < size <= max_bytes:
        content = decompress_bounded(encoded, max_bytes)
        return BytesIO(content), len(content)
    return BufferedReader(_Decompressing(encoded), _READ_BYTES), size


class _Decompressing(RawIOBase):
    """What is compressed, decompressed as it is read."""

    def __init__(self, encoded: bytes) -> None:
        self._reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(encoded)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._reader.readinto(buffer)
        except zstandard.ZstdError as error:
            raise ValueError(f"is not compressed with zstd: {error}") from error
