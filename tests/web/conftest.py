import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from web.tiny import save_tiny, tiny_buzzometer, tiny_text_model


@pytest.fixture(scope="session")
def buzz():
    return tiny_buzzometer()


@pytest.fixture(scope="session")
def text_model():
    return tiny_text_model()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))
