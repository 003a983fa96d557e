"""The members of an uncompressed tar, in order: every one of them, or an error that names the byte.

The standard library's tarfile silently ends at zeros or at a damaged header, believes any size that a header claims,
and follows chains of long names by recursion: on damaged data it loses samples without an error. Here each byte of an
archive is a header, content, padding, or an error. Extension headers are bounded, and nothing is unpacked.

Formats: POSIX.1-1988 (ustar), POSIX.1-2001 (pax), GNU, V7; https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from data_pipeline.samples.sample import printable

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
"""tar and tarfile pad archives with zeros to a multiple of this."""
MAX_EXTENSION_BYTES = 1 << 20
"""Longer pax headers and long names are refused."""
CHUNK_BYTES = 1 << 20

_ZEROS = bytes(BLOCK_BYTES)
_NUMBER = re.compile(rb"[0-9]{1,19}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SPARSE_KEYWORDS = ("GNU.sparse.", "SUN.holesdata", "SCHILY.realsize")

MemberKind = Literal["file", "folder", "link", "sparse", "other", "gap", "tail"]

UNUSABLE: dict[MemberKind, str] = {
    "folder": "member is a folder",
    "link": "member is a link, which is not followed",
    "sparse": "member is sparse, pack it without tar -S",
    "other": "member is a device, a pipe or of another special type",
    "gap": "zeros between members, from joined archives or a hole in a download",
    "tail": "zeros at the end, more than tar's padding, as an unfinished download leaves them",
}
"""Why a member that is not a file cannot be used."""
_KINDS: dict[bytes, MemberKind] = {
    **dict.fromkeys((b"0", b"\0", b"7"), "file"),
    **dict.fromkeys((b"1", b"2"), "link"),
    b"5": "folder",
    b"S": "sparse",
}
_EXTENSIONS = {
    **dict.fromkeys((b"L", b"K"), "long name"),
    b"x": "pax header",
    b"g": "global pax header",
}
"""Headers that extend the header of the next member; a member may have one of each."""
_WITHOUT_CONTENT = b"123456"
"""Types of links, devices, folders and pipes: whatever size they claim, no content follows, as in GNU tar."""


class TarError(ValueError):
    """Raised if a tar cannot be read to its end. The message names the tar, the problem and the byte."""


class TarEntry(NamedTuple):
    """A member, or a range of zeros in which members may be lost."""

    name: str
    """Name; bytes that are not UTF-8 are lone surrogates, as in os.fsdecode."""
    kind: MemberKind
    offset: int
    """Position of the content's first byte in the stream."""
    size: int
    """Number of bytes of the content in the tar."""


class TarReader:
    """Iterates over the members of a tar.

    Between joined archives a gap is yielded: they cannot be told from one archive with a hole as long as tar's padding.
    A tail is yielded if the file ends in more zeros than padding. Zeros elsewhere, and anything else that is not a
    header, raise TarError.
    """

    def __init__(self, stream: IO[bytes], name: str, start: int = 0, num_bytes: int | None = None):
        """stream: seekable, or else at byte `start`. name: of the tar, for messages. num_bytes: of the archive; None
        reads to the end of the stream."""
        self.stream, self.name = stream, name
        self._can_seek = stream.seekable()
        self._start = self._position = start
        self._stop: int | None = None if num_bytes is None else start + num_bytes
        if self._can_seek:
            end = stream.seek(0, io.SEEK_END)
            self._stop = end if self._stop is None else min(self._stop, end)
            stream.seek(start)
        self._content_position = self._content_stop = start
        self._ahead = b""
        """Bytes read beyond the current position of a stream that cannot seek."""

    def __iter__(self) -> Iterator[TarEntry]:
        archive = position = self._start
        while True:
            zeros = position
            block = self._block(position)
            if block == _ZEROS:
                stop = self._end_of_zeros()
                padded_end = zeros + 2 * BLOCK_BYTES + -(zeros + 2 * BLOCK_BYTES - archive) % RECORD_BYTES
                if stop is None:
                    if self._position > zeros + 2 * BLOCK_BYTES and self._position != padded_end:
                        yield TarEntry(f"bytes {zeros} to {self._position - 1}", "tail", zeros, 0)
                    return
                if stop not in (zeros + 2 * BLOCK_BYTES, padded_end):
                    raise self._error(f"zeros at byte {zeros} and more data at byte {stop}: a hole in a download")
                archive = position = stop
                block = self._block(position)
            entry, position = self._member(block, position)
            if archive > zeros:
                self._content_position = self._content_stop
                yield TarEntry(f"bytes {zeros} to {archive - 1}", "gap", zeros, 0)
            self._content_position, self._content_stop = entry.offset, entry.offset + entry.size
            yield entry

    def read(self, num_bytes: int) -> bytes:
        """Return up to `num_bytes` bytes of the last yielded member; b"" at its end."""
        wanted = min(num_bytes, self._content_stop - self._content_position)
        if wanted <= 0:
            return b""
        self._go_to(self._content_position)
        content = self._read(wanted)
        if len(content) < wanted:
            raise self._broken_off()
        self._content_position += wanted
        return content

    def open(self) -> io.BufferedReader:
        """Return the last yielded member as a file, valid until the next member is read."""
        return io.BufferedReader(_Content(self), CHUNK_BYTES)

    def _member(self, block: bytes, position: int) -> tuple[TarEntry, int]:
        """Return the member whose header, or first extension header, is this block, and the next header's position."""
        first, extensions = position, dict[bytes, bytes]()
        size = self._size_in(block, position)
        while (flag := block[156:157]) in _EXTENSIONS:
            if flag in extensions:
                raise self._error(f"a member with two {_EXTENSIONS[flag]}s at byte {first}")
            content = self._extension(flag, size, position)
            if flag == b"g":
                self._check_global(content, position)
            else:
                extensions[flag] = content
            position += BLOCK_BYTES + _padded(size)
            block = self._block(position)
            size = self._size_in(block, position)
        pax = self._pax(extensions.get(b"x", b""), first)
        if pax.get("size"):
            if not _NUMBER.fullmatch(pax["size"]):
                raise self._error(f"a member whose size is not a number of bytes at byte {first}")
            size = int(pax["size"])
        name = pax.get("GNU.sparse.name") or pax.get("path") or extensions.get(b"L") or _name_in(block)
        kind = _KINDS.get(flag, "other")
        if any(keyword.startswith(_SPARSE_KEYWORDS) for keyword in pax):
            kind = "sparse"
        elif kind == "file" and name.endswith(b"/") and size == 0:  # a folder in V7 format
            kind = "folder"
        if flag in _WITHOUT_CONTENT:
            size = 0
        position += BLOCK_BYTES
        if flag == b"S":
            position = self._after_sparse_map(block, position)
        if self._stop is not None and position + size > self._stop:
            raise self._error(f"it breaks off at byte {self._stop}, in a member of {size} bytes at byte {first}")
        return TarEntry(name.decode(errors="surrogateescape"), kind, position, size), position + _padded(size)

    def _size_in(self, block: bytes, position: int) -> int:
        """Return the size in a header. Raises TarError if the block is not a header."""
        checksum = _octal(block[148:156])
        if checksum != 256 + sum(block[:148]) + sum(block[156:]) and checksum != _signed_sum(block):
            for magic, compression in _COMPRESSED.items():
                if position == self._start and block.startswith(magic):
                    raise self._error(f"it is compressed by {compression}: decompress it")
            raise self._error(f"no header at byte {position}")
        field = block[124:136]
        size = int.from_bytes(field[1:]) if field[0] == 0x80 else _octal(field)
        if size is None or size >= 1 << 63:
            raise self._error(f"a member whose size is not a number of bytes at byte {position}")
        return size

    def _extension(self, flag: bytes, size: int, position: int) -> bytes:
        """Return the content of an extension header."""
        if size > MAX_EXTENSION_BYTES:
            raise self._error(
                f"a {_EXTENSIONS[flag]} of {size} bytes, more than {MAX_EXTENSION_BYTES}, at byte {position}"
            )
        self._go_to(position + BLOCK_BYTES)
        content = self._read(size)
        if len(content) < size:
            raise self._broken_off()
        return content.partition(b"\0")[0] if flag in b"LK" else content

    def _pax(self, content: bytes, position: int) -> dict[str, bytes]:
        """Return keywords and values of a pax header, whose records are 'LENGTH KEYWORD=VALUE' and a newline."""
        values: dict[str, bytes] = {}
        content, at = content.rstrip(b"\0"), 0
        while at < len(content):
            digits, space, _ = content[at : at + 20].partition(b" ")
            length = int(digits) if space and _NUMBER.fullmatch(digits) else 0
            keyword, equals, value = content[at + len(digits) + 1 : at + length].partition(b"=")
            if not equals or not value.endswith(b"\n") or at + length > len(content):
                raise self._error(f"a damaged pax header at byte {position}")
            values[keyword.decode(errors="replace")] = value[:-1]
            at += length
        return values

    def _check_global(self, content: bytes, position: int) -> None:
        """Raise TarError if a global header sets a name or size for all members: readers disagree on its meaning."""
        for keyword in self._pax(content, position):
            if keyword in ("path", "size") or keyword.startswith(_SPARSE_KEYWORDS):
                raise self._error(f"a global pax header that sets the {keyword} of all members at byte {position}")

    def _after_sparse_map(self, block: bytes, position: int) -> int:
        """Return where the content of an old GNU sparse member begins: its map of holes may take further blocks."""
        continues = block[482]
        while continues:
            continues = self._block(position)[504]
            position += BLOCK_BYTES
        return position

    def _block(self, position: int) -> bytes:
        self._go_to(position)
        block = self._read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise self._broken_off()
        return block

    def _end_of_zeros(self) -> int | None:
        """Return the position of the next block that is not all zeros; None if the archive ends before one."""
        num_bytes = RECORD_BYTES  # usually enough, and little to read again
        while chunk := self._read(num_bytes):
            num_bytes = CHUNK_BYTES
            begin = self._position - len(chunk)
            if chunk.count(0) < len(chunk):  # a hundred times as fast as stripping each chunk
                rest = chunk.lstrip(b"\0")
                found = self._position - len(rest)
                found -= (found - self._start) % BLOCK_BYTES
                self._position, self._ahead = found, chunk[found - begin :]
                return found
        return None

    def _go_to(self, position: int) -> None:
        if self._can_seek:
            self.stream.seek(position)  # always: the caller may read the stream between members
            self._position, self._ahead = position, b""
        while self._position < position:
            if not self._read(min(CHUNK_BYTES, position - self._position)):
                raise self._broken_off()
        assert self._position == position, "a stream that cannot seek is read forwards only"

    def _read(self, num_bytes: int) -> bytes:
        """Read num_bytes bytes, fewer only at the end of the archive."""
        if self._stop is not None:
            num_bytes = max(0, min(num_bytes, self._stop - self._position))
        content, self._ahead = self._ahead[:num_bytes], self._ahead[num_bytes:]
        while len(content) < num_bytes and (part := self.stream.read(num_bytes - len(content))):
            content += part  # one read is enough unless the stream is a pipe
        self._position += len(content)
        return content

    def _broken_off(self) -> TarError:
        return self._error(f"it breaks off at byte {self._position}")

    def _error(self, what: str) -> TarError:
        return TarError(f"{printable(self.name)} is not a readable tar ({what})")


class _Content(io.RawIOBase):
    def __init__(self, reader: TarReader) -> None:
        self.reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.reader.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def open_tar(path: Path, name: str = "") -> Iterator[TarReader]:
    """Open a tar for reading. name: for messages, if not its path."""
    with path.open("rb") as stream:
        yield TarReader(stream, name or str(path))


def _octal(field: bytes) -> int | None:
    """Return an octal number of a header, 0 if it is empty; None if it is not a number."""
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _signed_sum(block: bytes) -> int:
    """Return the checksum as some historic tars computed it, from signed characters."""
    counted = block[:148] + block[156:]
    return 256 + sum(counted) - 256 * sum(byte > 127 for byte in counted)


def _name_in(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:  # GNU's magic differs, and these bytes hold times
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
