"""A text file → its lines, the same on every platform.

In: a file, perhaps gzipped. Out: its lines with their numbers, each ending in a line feed and nothing else: what an editor
on Windows or an old Mac puts before and after a line (a byte order mark, a carriage return) is not what the author wrote, and
would be learnt.
Text that is not UTF-8 is said with its line; it is never guessed at.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator, Iterator

from finetune_training.contract.failure import FinetuneError, data_error
from finetune_training.sources.files import File

Rows = Generator[tuple[int, str], None, None]
"""The number of a row (or line), and its text."""
_PIECE = 2**20
_TWICE = b"\r\r\n"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def stream_of(file: File) -> io.BufferedReader | gzip.GzipFile:
    """The file's bytes, unzipped."""
    return gzip.GzipFile(fileobj=file.buffered()) if file.key.lower().endswith(".gz") else file.buffered()


def lines(file: File) -> Rows:
    """The file's lines, with their ends, numbered from 1."""
    number = 0
    try:
        with stream_of(file) as stream:
            for number, line in enumerate(_split(stream), 1):
                text = line.decode()
                if "\0" in text:
                    raise _with_nul(f"{file.uri}:{number}")
                text = text.removeprefix("\ufeff") if number == 1 else text
                yield number, text.rstrip("\r\n") + ("\n" if text.endswith(("\n", "\r")) else "")
    except UnicodeDecodeError as error:
        raise not_utf8(f"{file.uri}:{number}", error) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise data_error("BrokenGzip", f"{file.uri}: broken gzip after line {number}: {error}.") from error


def _split(stream: io.BufferedReader | gzip.GzipFile) -> Iterator[bytes]:
    """Lines with their ends, which may be of any platform, and differ within a file. A file that went through Windows twice has
    two returns before a feed."""
    rest = b""
    while piece := stream.read(max(_PIECE, len(rest))):  # a line may be as long as a book
        buffer = rest + piece
        whole = buffer.rstrip(b"\r")  # whose feed may come with the next piece
        found = whole.replace(_TWICE, b"\n").splitlines(keepends=True)
        rest = (found.pop() if found else b"") + buffer[len(whole) :]
        yield from found
    yield from rest.replace(_TWICE, b"\n").splitlines(keepends=True)


def not_utf8(where: str, error: UnicodeDecodeError) -> FinetuneError:
    """A Data error for bytes that are no UTF-8."""
    byte = error.object[error.start]
    looks = "; it begins as UTF-16 does" if error.start == 0 and error.object.startswith(_UTF_16) else ""
    return data_error("NotUTF8", f"{where}: not UTF-8 (byte 0x{byte:02x}{looks}).", "Convert the file to UTF-8.")


def _with_nul(where: str) -> FinetuneError:
    """UTF-16 without a mark: as UTF-8, every other character of English text is a NUL."""
    return data_error("NotUTF8", f"{where}: a NUL, as in UTF-16, which is no text.", "Convert the file to UTF-8.")
