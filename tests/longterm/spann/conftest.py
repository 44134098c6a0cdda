from __future__ import annotations

from collections.abc import Iterator

import pytest

from memspan.longterm.spann import native


@pytest.fixture(params=["native", "numpy"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test once with the compiled kernels and once in numpy."""
    if request.param == "numpy":
        monkeypatch.setenv("MEMSPAN_NATIVE", "0")
    native.library.cache_clear()
    if request.param == "native" and native.library() is None:
        pytest.skip("the kernels are not compiled, or MEMSPAN_NATIVE=0")
    yield str(request.param)
    native.library.cache_clear()


@pytest.fixture
def compiled() -> None:
    """Skips a test of the kernels where there are none."""
    if native.library() is None:
        pytest.skip("the kernels are not compiled, or MEMSPAN_NATIVE=0")
