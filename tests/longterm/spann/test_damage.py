"""A changed byte anywhere in the files is found, mended, or does no harm; so is a file that was cut."""

from __future__ import annotations

import logging
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import MemspanError, StoreError
from memspan.longterm.spann import Effort, VectorIndex, native
from memspan.longterm.spann.layout import SECTOR, Files
from memspan.longterm.spann.pages import PAGE, Column, file_sums, page_sums

from .test_updates import DIM, make, rows

X, NEW = rows(700), rows(90, 5, 3.0)
FILES = ("meta.json", "tables", "lists", "rows", "ids", "primary", "order", "owners", "tenants", "wal.log")
FLIPS = 8  # of each file


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two checkpoints with tenants, deleted rows, and changes in its log."""
    path = tmp_path_factory.mktemp("damage") / "x"
    with make(path, X, tenants=[f"t{i % 3}" for i in range(len(X))]) as index:
        index.add(np.arange(5000, 5060), NEW[:60], tenant="t1")
        index.delete(np.arange(0, 700, 50))
        index.flush()
        index.add(np.arange(6000, 6030), NEW[60:], tenant="late")
        index.delete([6, 5001])
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(sound, tmp_path / "x")
    return tmp_path / "x"


def file_of(path: Path, name: str) -> Path:
    """The file of data of a kind that is in force."""
    found = sorted(p for p in path.iterdir() if p.name.startswith(name))
    assert len(found) == 1
    return found[0]


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def answers(path: Path) -> dict[str, Any]:
    """What the index says to everything that reads its files."""
    asked = np.concatenate([X[::9], NEW])
    effort = Effort(cells=6, lists=40, rerank=120)
    with VectorIndex.open(path) as index:
        return {
            "exact": index.search(asked, 5, recall=1).ids,
            "lists": index.search(asked, 5, effort=effort).ids,
            "tenant": index.search(asked, 5, tenant="t1", recall=1).ids,
            "late": index.search(asked, 5, tenant="late", recall=1).ids,
            "filter": index.search(asked, 5, filter=np.arange(3, 300)).ids,
            "deleted": index.delete([7, 5002, 6001, 12345]),
            "rows": len(index),
        }


def same(found: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Equal, but for lists that were made anew, which may hold other copies."""
    lists, wanted = found["lists"], truth["exact"]
    near = (lists[:, :, None] == wanted[:, None, :]).any(1).mean() >= 0.98
    return near and all(np.array_equal(found[key], truth[key]) for key in truth if key != "lists")


@pytest.fixture(scope="module")
def truth(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    shutil.copytree(sound, path := tmp_path_factory.mktemp("truth") / "x")
    found = answers(path)
    assert found["deleted"] == 3 and same(found, found)
    return found


@pytest.mark.parametrize("name", FILES)
def test_no_changed_bit_does_harm(name: str, sound: Path, tmp_path: Path, truth: dict[str, Any], kernels: str) -> None:
    rng = np.random.default_rng([len(name), *name.encode()])
    size = file_of(sound, name).stat().st_size
    assert size
    outcomes = []
    for turn in range(FLIPS):
        shutil.copytree(sound, path := tmp_path / str(turn))
        flip(file_of(path, name), int(rng.integers(size)), int(rng.integers(8)))
        try:
            assert same(answers(path), truth)
            outcomes.append("the same")
        except StoreError as error:
            assert (
                "run: memspan index verify" in str(error)
                or "build the index again" in str(error)
                or (name in str(error))
            )
            outcomes.append("told")
        shutil.rmtree(path)
    assert name in ("meta.json", "lists", "owners") or "told" in outcomes or "the same" in outcomes


@pytest.mark.parametrize("name", FILES)
def test_no_cut_file_does_harm(name: str, sound: Path, tmp_path: Path, truth: dict[str, Any]) -> None:
    rng = np.random.default_rng([1, *name.encode()])
    size = file_of(sound, name).stat().st_size
    for turn in range(5):
        shutil.copytree(sound, path := tmp_path / str(turn))
        file = file_of(path, name)
        file.write_bytes(file.read_bytes()[: int(rng.integers(size))])
        try:
            found = answers(path)
        except StoreError:
            continue
        if name == "wal.log":
            # As after a crash: the changes that are whole still hold.
            assert found["rows"] in (len(X) - 14 + 60 - 1, truth["rows"] + 1, truth["rows"] + 2, len(X) - 14 + 60 - 2)
        else:
            assert same(found, truth)


@pytest.mark.parametrize("name", ["lists", "ids", "primary", "order", "owners", "tenants"])
def test_what_the_rows_can_mend_is_mended(name: str, path: Path, truth: dict[str, Any], kernels: str) -> None:
    file = file_of(path, name)
    for at in range(200, min(file.stat().st_size, 2900), 500):
        flip(file, at, 3)
    with VectorIndex.open(path) as index:
        found = index.verify()
        assert found
        assert index.verify(repair=True) == found
        assert index.verify() == []
    with VectorIndex.open(path) as index:
        assert index.verify() == []
    assert same(answers(path), truth)


@pytest.mark.parametrize("direct", [False, True])
def test_damaged_rows_are_named_and_can_be_put_again(direct: bool, path: Path, kernels: str) -> None:
    file = file_of(path, "rows")
    flip(file, 3 * PAGE + 100, 4)
    with VectorIndex.open(path, direct=direct) as index:
        slots = index._engine.rows.items(3)
        ids = index._engine.ids[slots]
        ids = ids[~index._engine._is_dead(slots)]
        for ask in (
            lambda: index.search(X, 5, recall=1),
            lambda: index.search(X, 5, effort=Effort(cells=6, lists=40, rerank=100)),
            lambda: index.search(X[:1], 5, filter=ids),
        ):
            with pytest.raises(StoreError, match=rf"rows of ids {ids[0]}, {ids[1]}, .* upsert=True"):
                ask()
        with pytest.raises(StoreError, match="upsert=True"):
            index.verify(repair=True)
        again = [X[i] if i < 5000 else NEW[i - 5000] for i in ids]
        index.add(ids, np.stack(again), upsert=True)
        assert index.search(np.stack(again), 1, recall=1).ids[:, 0].tolist() == ids.tolist()
        assert index.search(X, 5, effort=Effort(cells=6, lists=40, rerank=100)).ids.min() >= 0
        index.flush()
        index.compact(progress=False)
        assert index.verify() == []


@pytest.mark.parametrize("direct", [False, True])
def test_a_torn_list_is_found_when_the_index_is_opened(
    direct: bool, path: Path, kernels: str, caplog: pytest.LogCaptureFixture
) -> None:
    with VectorIndex.open(path) as index:
        t = index._engine.tables
        assert len(t.fresh)
        number = int(t.fresh[0])
        torn = int(t.list_sector[number])
        entries = sorted(index._engine.entries(number)[0].slots.tolist())
    with file_of(path, "lists").open("r+b") as f:
        f.seek(torn * SECTOR)
        f.write(bytes(SECTOR))
    with caplog.at_level(logging.WARNING), VectorIndex.open(path, direct=direct) as index:
        assert "made anew" in caplog.text
        made = sorted(index._engine.entries(number)[-1].slots.tolist())
        assert len(set(made) ^ set(entries)) <= 0.2 * len(entries)
        index.flush()
        assert index.verify() == []
    caplog.clear()
    with VectorIndex.open(path) as index:
        assert index.verify() == [] and not caplog.text


def test_more_damage_than_is_borne_is_told(path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    monkeypatch.setattr("memspan.longterm.spann.engine.MENDED", 3)
    file = file_of(path, "lists")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(StoreError, match="more than 3 lists; run: memspan index verify --repair"):
        answers(path)


def test_checksums_are_those_of_zlib(compiled: None) -> None:
    lib = native.library()
    data = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8)
    for size in [*range(0, 200), 1000, 4096, 9999]:
        for start in (0, 1, 7):
            part = np.ascontiguousarray(data[start : start + size])
            for before in (0, 123456789):
                wanted = zlib.crc32(part.tobytes(), before)
                assert {lib.spann_crc(plain, native.pointer(part), len(part), before) for plain in (0, 1)} == {wanted}


def test_sums_go_on_where_they_ended(tmp_path: Path, kernels: str) -> None:
    data = np.random.default_rng(1).integers(0, 2**31, 9000, np.int64)
    file = tmp_path / "x"
    data.tofile(file)
    sums = file_sums(file, 0)
    for held, more in ((0, 100), (100, 512), (512, 513), (513, 5000), (5000, 9000)):
        sums = Column(file, np.dtype(np.int64), (), held, sums).grown(more)
        assert np.array_equal(sums, page_sums(data[:more].view(np.uint8)))
        assert len(sums) == -(-8 * more // PAGE)
    column = Column(file, np.dtype(np.int64), (), 9000, sums)
    assert np.array_equal(column[3:8000:1], data[3:8000])
    flip(file, 8 * 600, 1)
    column = Column(file, np.dtype(np.int64), (), 9000, sums)
    assert column.bad_pages() == [1]
    assert np.array_equal(column[np.array([0, 511, 1024, 8999])], data[[0, 511, 1024, 8999]])
    for at in (np.array([3, 700]), slice(0, 513), slice(1023, 1025)):
        with pytest.raises(MemspanError, match="byte 4,096"):
            column[at]


def test_wide_rows_are_checked_on_all_their_pages(tmp_path: Path, kernels: str) -> None:
    data = np.random.default_rng(2).standard_normal((40, 700)).astype(np.float32)
    file = tmp_path / "x"
    data.tofile(file)
    sums = file_sums(file, data.nbytes)
    flip(file, 2800 * 20 + 2790, 1)  # the end of row 20
    column = Column(file, data.dtype, (700,), 40, sums)
    bad = (2800 * 20 + 2790) // PAGE
    touched = set(column.items(bad).tolist())
    assert 20 in touched
    for i in range(40):
        if i in touched:
            with pytest.raises(MemspanError):
                column[np.array([i])]
        else:
            assert np.array_equal(column[np.array([i])][0], data[i])


def test_the_layout_names_every_file(sound: Path) -> None:
    assert all(Files(sound).owns(p) for p in sound.iterdir())
    assert DIM == 24
