"""A server around the application: uvicorn, in this thread or in the background."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from lemur_mini.files import FileError, one_line
from lemur_mini.serving.app import make_app
from lemur_mini.serving.gate import require_token
from lemur_mini.serving.ranker import Ranker

KEEP = 5  # seconds that an idle connection is kept, and that a stop waits


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises FileError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise FileError(
            f"{host}, port {port}: cannot be listened on ({one_line(error)}); choose "
            "another --port, 0 for a free one"
        ) from error


def address_of(listening: socket.socket) -> str:
    """http://host:port of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: Callable) -> uvicorn.Server:
    """uvicorn around an application, quiet but for errors."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            timeout_keep_alive=KEEP,
            timeout_graceful_shutdown=KEEP,
            server_header=False,
        )
    )


@contextmanager
def running(
    ranker: Ranker, host: str = "127.0.0.1", port: int = 0, **options
) -> Iterator[str]:
    """Serve a ranker in the background while the block runs: gives its address.
    options: those of `make_app`. Raises OptionError for an address that others reach
    where there is no token."""
    require_token(host, options.get("token"))
    with listen(host, port) as listening:
        server = server_of(make_app(ranker, **options))
        answers = threading.Thread(target=server.run, args=([listening],), daemon=True)
        answers.start()
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            answers.join()
