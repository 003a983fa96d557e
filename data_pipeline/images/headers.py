"""Checks of an image's header before it is decoded, so that a hostile file costs neither time nor memory.

max_image_pixels bounds the pixels. Three things can cost more than the pixels: the scans of a JPEG, each of which
visits every pixel; EXIF entries, each of which may claim the whole file as its value; and compressed texts in a PNG.

Sources: ITU-T T.81 (JPEG), PNG 3rd edition, WebP container specification, TIFF 6.0 (EXIF is a TIFF).
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, MAX_TEXT_MEMORY

from data_pipeline.samples.sample import BadSampleError

MAX_SIDE = 65_535
"""Longest side that a JPEG can have. A PNG row may have 2^31 pixels, and costs memory per row besides."""
MAX_SCANS = 100
"""Maximum number of scans in a JPEG; encoders write 10 to 20."""
MAX_SCANNED_PIXELS = 2_000_000_000
"""Maximum pixels times scans in a JPEG: about four seconds of decoding."""
MAX_JPEG_SEGMENTS = 2_000
"""Maximum number of segments in a JPEG. 64 MB of metadata fit into 1,000 segments."""
MAX_JPEG_PADDING = 1 << 20
"""Maximum number of bytes between the segments of a JPEG, which Pillow reads one by one."""
MAX_PNG_CHUNKS = 100_000
"""Maximum number of chunks in a PNG: 800 MB in the chunks of 8 KB that libpng writes."""
MAX_EXIF_BYTES = 1 << 24
"""Maximum size of the values of all EXIF entries together. They may overlap."""
MAX_TIFFS_INSIDE = 100
"""Maximum number of TIFF headers in an AVIF, of which one holds the EXIF data."""
MAX_EXIF_VALUES = 64
"""Maximum number of values in an EXIF entry that is read: orientation and resolution are single numbers."""

_SOF = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_STANDALONE = (0x01, 0xD8, _EOI, *range(0xF0, 0xFE))
"""Markers that Pillow reads as segments without a length."""
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Matches no byte of compressed data, in which 0xFF is followed by 0 or is a restart marker."""

_EXIF_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 0])
"""Bytes per value by its type in a TIFF directory; the last is for unknown types."""
_EXIF_READ = (0x0112, 0x011A, 0x0128)
"""Tags that are read: orientation, resolution and its unit."""
_SUBDIRECTORIES = (0x8769, 0x8825, 0xA005)
_TIFF_HEADER = re.compile(rb"II\*\0|MM\0\*|II\0\*|MM\*\0")
"""Headers that Pillow accepts; the last two are not valid."""


def check_jpeg(encoded: bytes) -> None:
    """Raise BadSampleError for a JPEG with more scans or metadata than any encoder writes."""
    pixels = num_components = num_scans = padding = exif_bytes = 0
    is_progressive, exif = False, list[bytes]()
    for num_segments, (marker, skipped, start, end) in enumerate(_segments(encoded), 1):
        if marker in _SOF:
            height, width, num_components = struct.unpack(">HHB", encoded[start + 3 : start + 8].ljust(5, b"\0"))
            pixels, is_progressive = max(pixels, height * width), marker in _PROGRESSIVE
        elif marker == _APP1 and encoded.startswith(b"Exif\0\0", start + 2):
            exif.append(encoded[start + 2 : end])
            exif_bytes += end - start
        elif marker == _SOS:
            num_scans += 1
            if num_scans == 1:
                _check_jpeg_exif(exif, exif_bytes)
                if not is_progressive and encoded[start + 2 : start + 3] >= bytes([num_components]):
                    break  # all components in one scan: the decoder stops after it
            if num_scans > MAX_SCANS or num_scans * pixels > MAX_SCANNED_PIXELS:
                raise BadSampleError(f"image has too many scans ({num_scans} or more of {pixels} pixels)")
        elif marker == _EOI and num_scans:
            break
        padding += 0 if num_scans else skipped
        if num_segments > MAX_JPEG_SEGMENTS or padding > MAX_JPEG_PADDING:
            raise BadSampleError(
                f"image has too much metadata (more than {MAX_JPEG_SEGMENTS} segments or {MAX_JPEG_PADDING} bytes "
                "between them)"
            )


def _segments(encoded: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, number of bytes skipped before it, start and end of its segment. Compressed data is skipped."""
    position = 2
    while found := _MARKER.search(encoded, position):
        marker, start = found[1][0], found.end()
        end = start if marker in _STANDALONE else start + int.from_bytes(encoded[start : start + 2])
        yield marker, found.start() - position, start, end
        position = end


def _check_jpeg_exif(parts: list[bytes], num_bytes: int) -> None:
    """Raise BadSampleError for EXIF data that is too large: Pillow reads all entries when it opens a JPEG."""
    if num_bytes > MAX_EXIF_BYTES >> 2 or not is_bounded_exif(b"".join([part[6:] for part in parts])):
        raise BadSampleError(f"image has too much metadata (EXIF entries of more than {MAX_EXIF_BYTES} bytes)")


def has_bounded_exif(info: dict[str | tuple[int, int], object]) -> bool:
    """Return whether the EXIF data of an image that Pillow has opened is small enough to read."""
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:  # written by ImageMagick into a PNG
        exif = bytes.fromhex("".join(str(info["Raw profile type exif"]).split("\n")[3:]))
    return not isinstance(exif, bytes) or is_bounded_exif(exif)


def is_bounded_exif(exif: bytes) -> bool:
    """Return whether the values of all entries stay below MAX_EXIF_BYTES. True for broken data, which is not read."""
    return is_bounded_tiff(memoryview(re.sub(rb"^(Exif\0\0){1,2}", b"", exif)))


def is_bounded_tiff(tiff: memoryview) -> bool:
    """Return the same for a TIFF, which is the form of EXIF data."""
    try:
        return _directory_bytes(tiff, *struct.unpack_from(_byte_order(tiff) + "L", tiff, 4)) <= MAX_EXIF_BYTES
    except struct.error:
        return True


def has_bounded_tiffs(encoded: bytes) -> bool:
    """Return the same for everything inside a file that looks like a TIFF."""
    starts = [found.start() for found in itertools.islice(_TIFF_HEADER.finditer(encoded), MAX_TIFFS_INSIDE + 1)]
    view = memoryview(encoded)
    return len(starts) <= MAX_TIFFS_INSIDE and all(is_bounded_tiff(view[start:]) for start in starts)


def _directory_bytes(tiff: memoryview, start: int, depth: int = 0) -> int:
    """Return the size of the values of a directory and its subdirectories, as far as they lie in the file."""
    order = _byte_order(tiff)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    count = min(count, (len(tiff) - start - 2) // 12)
    layout = [("tag", order + "u2"), ("type", order + "u2"), ("count", order + "u4"), ("offset", order + "u4")]
    entries = np.frombuffer(tiff, np.dtype(layout), count, start + 2)
    sizes = entries["count"] * _EXIF_TYPE_BYTES[np.minimum(entries["type"], len(_EXIF_TYPE_BYTES) - 1)]
    is_read = (sizes > 4) & (entries["offset"] + sizes <= len(tiff))
    if (entries["count"][is_read & np.isin(entries["tag"], _EXIF_READ)] > MAX_EXIF_VALUES).any():
        return MAX_EXIF_BYTES + 1
    total = int(sizes[is_read].sum())
    for entry in entries[np.isin(entries["tag"], _SUBDIRECTORIES)] if depth < 2 else ():
        if int(entry["offset"]) + 2 <= len(tiff) and total <= MAX_EXIF_BYTES:
            total += _directory_bytes(tiff, int(entry["offset"]), depth + 1)
    return total


def _byte_order(tiff: memoryview) -> str:
    return ">" if bytes(tiff[:2]) == b"MM" else "<"


def lean_png(encoded: bytes) -> bytes:
    """Return a PNG without its color profile and without texts that exceed Pillow's limits: neither changes a pixel.

    Raises BadSampleError if it has too many chunks.
    """
    position, kept_from, text_bytes = 8, 0, 0
    kept: list[bytes] = []
    for _ in range(MAX_PNG_CHUNKS):
        length, name = int.from_bytes(encoded[position : position + 4]), encoded[position + 4 : position + 8]
        if name == b"IEND" or len(name) < 4:
            break
        end = position + length + 12
        is_left_out = name == b"iCCP"
        if name in (b"tEXt", b"zTXt", b"iTXt"):
            found = _text_bytes(name, encoded[position + 8 : end - 4], text_bytes < MAX_TEXT_MEMORY)
            is_left_out = found is None or text_bytes + found > MAX_TEXT_MEMORY
            text_bytes += MAX_TEXT_CHUNK if found is None else found
        if is_left_out:
            kept.append(encoded[kept_from:position])
            kept_from = end
        position = end
    else:
        raise BadSampleError(f"image has too much metadata (more than {MAX_PNG_CHUNKS} chunks)")
    return b"".join([*kept, encoded[kept_from:]]) if kept else encoded


def _text_bytes(name: bytes, content: bytes, is_inflated: bool) -> int | None:
    """Return the size of a PNG's text; None if it is compressed and exceeds MAX_TEXT_CHUNK or is not to be inflated."""
    compressed = content
    if name == b"zTXt":
        compressed = content.partition(b"\0")[2][1:]
    elif name == b"iTXt":
        head = content.partition(b"\0")[2]
        if head[:1] == b"\0":
            return len(content)
        compressed = head[2:].split(b"\0", 2)[-1]
    if name == b"tEXt":
        return len(content)
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(compressed, MAX_TEXT_CHUNK) if is_inflated else b""
    except zlib.error:
        return 0
    return len(text) if is_inflated and not inflating.unconsumed_tail else None


def webp_size(encoded: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP's canvas, for which the decoder allocates at once; None if not found."""
    chunk, bits = encoded[12:16], int.from_bytes(encoded[21:25], "little")
    if chunk == b"VP8X":
        return int.from_bytes(encoded[24:27], "little") + 1, int.from_bytes(encoded[27:30], "little") + 1
    if chunk == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return width, height
    return None
