"""The digits, prepared once for the whole room."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    from kregkit.data.bundled_digits import prepared_digits

    directory = tmp_path_factory.mktemp("tfds")
    prepared_digits(directory)
    return directory


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach the network from Python fails the test."""
    import socket

    def refuse(*arguments, **_):
        pytest.fail(f"touched the network: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
