"""What others have compressed with zstd: a few bytes may say that they hold terabytes."""

import threading

import zstandard

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
