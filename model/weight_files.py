"""Weight files, read as data: no code in them is executed, and no content expands beyond the size of the file.

Two formats: safetensors, and archives of torch.save, whose pickles may name tensors and containers only. For any other
file the error says in one sentence what it is. A file without read permission is an OSError, not a damaged file.
"""

import errno
import json
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

MAX_JSON_BYTES = 1 << 24
"""Limit for a configuration, card or manifest; the manifest of a thousand ranks takes a fiftieth of it."""
MAX_HEADER_BYTES = 1 << 23
"""Limit for the header of a safetensors file: about 50,000 tensors."""
_ZIP_MAGIC = b"PK\x03\x04"
_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number of torch.save before torch 1.6, which is the first pickle of the file."""
_NUM_LEGACY_PICKLES = 5
_HARMLESS_GLOBALS = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch (Size|device|\w+Storage|b?float\d+\w*|u?int\d+|bool|complex\d+|per_(tensor|channel)_\w+)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter|sparse_tensor|qtensor|meta_tensor_no_storage)"
    r"|torch\.serialization _get_layout"
    r"|(builtins|__builtin__) (set|complex)"
)
"""Globals that a pickle may name. torch's own list also has functions that allocate memory by a number or call
numpy."""
_FORBIDDEN_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


class HoldsCodeError(ValueError):
    """A file of torch.save that names more than tensors and containers."""


def read_torch_file(path: Path, types: Iterable[type] = (), map_location: Any = "cpu", is_mapped: bool = False) -> Any:
    """Return the content of a file of torch.save if it is data only.

    types: classes that the file may hold besides tensors and containers; is_mapped: map the file into memory, so that
    tensors are read on first use. Raises ValueError, with the reason, if the file is something else, is damaged or
    holds code; OSError if it cannot be read.
    """
    head = _head(path)
    own = tuple(types)
    allowed = {f"{kind.__module__} {kind.__qualname__}" for kind in own}
    with _damage_reported(path):
        if head.startswith(_ZIP_MAGIC):
            _check_pickle(path, BytesIO(_pickle_in_archive(path)), 1, allowed)
        elif head.startswith(_LEGACY_MAGIC):
            with path.open("rb") as file:
                _check_pickle(path, file, _NUM_LEGACY_PICKLES, allowed)
        else:
            raise ValueError(f"{path} {_description(head)}")
        with torch.serialization.safe_globals([*own]):
            is_mapped = is_mapped and head.startswith(_ZIP_MAGIC)
            return torch.load(path, map_location=map_location, weights_only=True, mmap=is_mapped)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises ValueError if it is not a valid safetensors file, OSError if it cannot be read.
    """
    head = _head(path)
    if not is_safetensors(path):
        raise ValueError(f"{path} {_description(head)}")
    with _damage_reported(path):
        num_bytes = int.from_bytes(head[:8], "little")
        if num_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"{path} is damaged: its header has {num_bytes} bytes, more than {MAX_HEADER_BYTES}")
        return load_file(path)


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins like a safetensors file: a length and a JSON object. Raises OSError."""
    return _head(path)[8:9] == b"{"


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, whatever its name. Raises OSError if it cannot be read."""
    if not _head(path).startswith(_ZIP_MAGIC):
        return False
    with _damage_reported(path), zipfile.ZipFile(path) as archive:
        return _holds_script(archive)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises ValueError if the file does not hold one or is unreasonably large, OSError if it cannot be read.
    """
    _check_regular(path)
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES} bytes, the limit for such a file; use another file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not valid JSON ({reason}); write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object; write it again")
    return content


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turn any exception that a damaged file causes in a reader into a ValueError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to an impossible offset, which is damage
            raise
        raise ValueError(f"{path} is cut off or damaged; copy it again") from error
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} is cut off or damaged ({_first_line(error)}); copy it again") from error


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line[:160] or type(error).__name__


def _check_regular(path: Path) -> None:
    """Raise ValueError if a path is not a regular file: reading a pipe or a device would never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; use a file")


def _head(path: Path) -> bytes:
    """Return the beginning of a regular file."""
    _check_regular(path)
    with path.open("rb") as file:
        return file.read(512)


def _description(head: bytes) -> str:
    """Return what a file is instead of a weight file, and the remedy."""
    start = head.lstrip().lower()
    known = (
        (not head, "is empty; copy it again"),
        (head.startswith(b"version https://git-lfs"), "is a git-LFS pointer, not the file itself; run git lfs pull"),
        (start.startswith((b"<!doctype html", b"<html")), "is a web page (HTML), not weights; download it again"),
        (head.startswith(_COMPRESSED), "is compressed; unpack it and use its content"),
        (head[257:262] == b"ustar", "is a tar; unpack it and use its content"),
        (_is_safetensors(head), "is a safetensors file; give its folder if pretrain.convert wrote it"),
        (head[:1] == b"\x80", "is a pickle that torch.save did not write and is not opened; save its tensors only"),
        (head.startswith(_ZIP_MAGIC), "is a zip, such as torch.save writes; use a safetensors file"),
        (all(byte >= 32 or byte in b"\t\n\r\f" for byte in head), "is text, not weights; use the file itself"),
    )
    return next((text for applies, text in known if applies), "is cut off, damaged or not a weight file; copy it again")


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with 8 bytes of a sound length and a JSON object: a pickle, too, may have a brace
    there."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _holds_script(archive: zipfile.ZipFile) -> bool:
    names = [name.lower() for name in archive.namelist()]
    return any(name.endswith(("/constants.pkl", "/model.json")) or "/code/" in name for name in names)


def _pickle_in_archive(path: Path) -> bytes:
    """Return the pickle of an archive whose other members are plain bytes of tensors.

    Raises ValueError unless the archive is as torch.save writes it: two readers must not find different members in it,
    and no member may be compressed.
    """
    with zipfile.ZipFile(path) as archive:
        if _holds_script(archive):
            raise ValueError(
                f"{path} is a TorchScript archive, which executes code when it is loaded; use a state dict or "
                "safetensors"
            )
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]
        folder = entries[0].filename.partition("/")[0] if entries else ""
        is_sound = (
            len(set(names)) == len(names)
            and all(entry.filename.startswith(f"{folder}/") for entry in entries)
            and all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries)
            and sum(entry.file_size for entry in entries) <= path.stat().st_size
            and f"{folder}/data.pkl" in archive.namelist()
        )
        if not is_sound:
            raise ValueError(f"{path} is not an archive that torch.save writes; save its tensors again")
        return archive.read(f"{folder}/data.pkl")


def _check_pickle(path: Path, file: IO[bytes], num_pickles: int, allowed: set[str]) -> None:
    """Raise ValueError, which names the global, if a pickle holds more than tensors, containers and allowed classes."""
    for _ in range(num_pickles):
        for opcode, argument, _place in pickletools.genops(file):
            name = str(argument) if opcode.name == "GLOBAL" else ""
            is_harmless = not name or name in allowed or _HARMLESS_GLOBALS.fullmatch(name)
            if opcode.name in _FORBIDDEN_OPCODES or not is_harmless:
                named = name.replace(" ", ".") or opcode.name
                raise HoldsCodeError(f"{path} holds code ({named}), which is not executed; save its tensors only")
