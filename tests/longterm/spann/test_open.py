from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memspan.core.errors import StoreError
from memspan.longterm.spann import Effort, SpannConfig, VectorIndex, calibrate
from memspan.longterm.spann.layout import FORMAT, read_json, write_json

from .rows import clustered

ROWS = clustered(1100, 16)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("open") / "x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "SAMPLE", 20)
        patch.setattr(calibrate, "SAMPLE_NUMPY", 5)
        patch.setattr(calibrate, "LISTS", (4, 32))
        VectorIndex.build(ROWS, path, metric="l2", config=SpannConfig(cell=256), progress=False).close()
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(sound, tmp_path / "x")
    return tmp_path / "x"


def change(**values: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        write_json(path / "meta.json", {**read_json(path / "meta.json"), **values})

    return damage


def without(key: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        meta = read_json(path / "meta.json")
        del meta[key]
        write_json(path / "meta.json", meta)

    return damage


def cut(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])

    return damage


def flip(name: str, share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[int(share * (len(data) - 1))] ^= 16
        (path / name).write_bytes(bytes(data))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(data) and None


FILES = ["rows.bin", "ids.bin", "primary.bin", "order.bin", "lists.bin"]  # `owners.bin` is empty: nobody's rows
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer format": (change(format=FORMAT + 1), "install a newer one"),
    "older format": (change(format=FORMAT - 1), "build the index again"),
    "no meta": (remove("meta.json"), "make one with VectorIndex.build"),
    "meta is not JSON": (write("meta.json", b"{"), "meta.json is damaged"),
    "meta is not text": (write("meta.json", b"\xff\xfe\x00"), "meta.json is damaged"),
    "meta is a list": (write("meta.json", b"[]"), "meta.json is damaged"),
    "no checkpoint": (remove("tables.0"), "build the index again"),
    "checkpoint of no bytes": (write("tables.0", b""), "build the index again"),
    "checkpoint of something else": (write("tables.0", b"x" * 1000), "build the index again"),
    "checkpoint cut": (cut("tables.0"), "checksum"),
    **{f"checkpoint bit at {s}": (flip("tables.0", s), "build the index again") for s in (0.0, 0.001, 0.3, 0.9, 1.0)},
    **{
        f"no {key} in meta": (without(key), "meta.json is damaged") for key in ("format", "generation", "rows", "dtype")
    },
    **{f"no {key} in meta": (without(key), "meta.json is damaged") for key in ("curves", "config")},
    "format is a word": (change(format="one"), "meta.json is damaged"),
    "rows is a word": (change(rows="many"), "meta.json is damaged"),
    "another dtype": (change(dtype="float65"), "meta.json is damaged"),
    "more rows": (change(rows=5000), "too short for 5,000 rows"),
    **{f"{name} missing": (remove(name), f"{name} is missing") for name in FILES},
    **{f"{name} cut": (cut(name), f"{name} is too short") for name in FILES},
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_told_with_its_remedy(name: str, path: Path):
    damage, message = DAMAGE[name]
    damage(path)
    with pytest.raises(StoreError, match=message) as error:
        VectorIndex.open(path)
    assert "build" in str(error.value) or "install" in str(error.value)


def test_there_is_no_index(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing", str(tmp_path)):
        with pytest.raises(StoreError, match=r"holds no index: make one with VectorIndex\.build"):
            VectorIndex.open(path)


def test_what_was_built_is_what_is_opened(path: Path, kernels: str):
    with VectorIndex.open(path) as first, VectorIndex.open(str(path)) as second:
        assert first.dim == 16 and first.metric == "l2" and len(first) == 1100
        assert first.stats() == second.stats()
        assert (first.search(ROWS[:9]).ids == second.search(ROWS[:9]).ids).all()
        assert first.search(ROWS[:9], 1).ids[:, 0].tolist() == list(range(9))
        assert {k: list(c) for k, c in first.stats()["recall"].items()}.keys() == {10, 100}


def test_opening_and_searching_write_nothing(path: Path):
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.iterdir()}
    with VectorIndex.open(path) as index:
        index.search(ROWS[:5], filter=[1, 2])
        index.stats(), index.footprint(), index.memory()
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.iterdir()} == before


@pytest.mark.parametrize("direct", [False, True])
def test_lists_of_noise_are_made_anew_from_the_rows(direct: bool, path: Path, kernels: str):
    with VectorIndex.open(path) as index:
        truth = index.search(ROWS[:20], 10, recall=1).ids
    size = (path / "lists.bin").stat().st_size
    (path / "lists.bin").write_bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
    with VectorIndex.open(path, direct=direct) as index:
        hits = index.search(ROWS[:20], 10, effort=Effort(cells=4, lists=30, rerank=50))
    assert (hits.ids[:, :, None] == truth[:, None, :]).any(1).mean() > 0.97


def test_memory_counts_tables_and_mapped_pages(path: Path):
    with VectorIndex.open(path) as index:
        index.search(ROWS[:50], recall=1)
        memory = index.memory()
        assert memory["private"] == index._engine.nbytes > index._engine.tables.heads.codes.nbytes
        mapped = sum((path / name).stat().st_size for name in FILES)
        assert 0 < memory["mapped"] <= mapped + 4096 * len(FILES)
