"""Decodes content encodings piece by piece, so that only little of a body is in memory at once. Pure.

A decoder is fed bytes and yields pieces of bounded size. A caller who asks for no more pieces stops a decompression
bomb. A decoder may take 16 MB, so it is made once the whole body is there.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # it ships neither stubs nor a marker

from batchrun.server.error_answers import ErrorAnswer, request_invalid

#: Max bytes of one decoded piece.
_PIECE_BYTES = 65_536
#: zlib's `wbits` for a gzip header, a zlib header, and none. Source: the zlib manual, inflateInit2.
_GZIP, _ZLIB, _RAW = 31, 15, -15


class Decoder(Protocol):
    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decoded pieces of the next bytes of the body."""

    def finish(self) -> None:
        """Check that the body is complete."""


def decoder_of(content_encoding: str) -> Callable[[], Decoder] | None:
    """Return what makes the decoder of a `Content-Encoding` header; None: the body is as it is.

    Several encodings are refused: between two of them, any number of bytes would be made that give none in the end.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _DECODERS:
        raise ErrorAnswer(
            415,
            "unsupported-content-encoding",
            f"Content-Encoding {', '.join(names)} is not supported (use one of br, gzip, deflate or identity)",
        )
    return _DECODERS[names[0]]


class _Gzip:
    _window_bits = _GZIP

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(self._window_bits)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while not self._inflater.eof:
                piece = self._inflater.decompress(chunk, _PIECE_BYTES)
                chunk = self._inflater.unconsumed_tail
                if piece:
                    yield piece
                # After a piece of full size there may be more output, even if the whole chunk was consumed.
                if not chunk and len(piece) < _PIECE_BYTES:
                    return
        except zlib.error:
            raise _damaged() from None

    def finish(self) -> None:
        if not self._inflater.eof:
            raise _cut_short()


class _Deflate(_Gzip):
    """Clients send it with or without the zlib header; the first two bytes decide."""

    def __init__(self) -> None:
        self._head = b""
        self._is_known = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if not self._is_known:
            self._head += chunk
            if len(self._head) < 2:
                return
            chunk, self._is_known = self._head, True
            has_header = chunk[0] & 15 == zlib.DEFLATED and int.from_bytes(chunk[:2]) % 31 == 0
            self._inflater = zlib.decompressobj(_ZLIB if has_header else _RAW)
        yield from super().feed(chunk)

    def finish(self) -> None:
        if not self._is_known:
            raise _cut_short()
        super().finish()


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            piece = self._decoder.process(chunk, output_buffer_limit=_PIECE_BYTES)
            while piece or not self._decoder.can_accept_more_data():
                yield piece
                piece = self._decoder.process(b"", output_buffer_limit=_PIECE_BYTES)
        except brotli.error:
            raise _damaged() from None

    def finish(self) -> None:
        if not self._decoder.is_finished():
            raise _cut_short()


def _damaged() -> ErrorAnswer:
    return request_invalid("The body does not match its Content-Encoding")


def _cut_short() -> ErrorAnswer:
    return request_invalid("The compressed body ends too early")


_DECODERS: Mapping[str, Callable[[], Decoder]] = {"gzip": _Gzip, "x-gzip": _Gzip, "deflate": _Deflate, "br": _Brotli}
