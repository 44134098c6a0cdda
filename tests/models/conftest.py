"""The bundled models, loaded once, in a cache folder of the test run's own."""

import pytest

from memspan.core.errors import MissingExtraError
from memspan.models import load_embedder, load_language_model


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    """What XDG_CACHE_HOME is for this run."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def embedder():
    """MiniLM in float32."""
    try:
        return load_embedder("bundled", threads=2, dtype="float32")
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def language_model(cache_folder):
    """SmolLM2-135M-Instruct in bfloat16."""
    try:
        return load_language_model("bundled", dtype="bfloat16")
    except MissingExtraError as error:
        pytest.skip(str(error))
