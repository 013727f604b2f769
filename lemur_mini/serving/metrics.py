"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # seconds


class Metrics:
    """Requests by path and status, their seconds, and sizes read when asked for."""

    def __init__(self, paths: set[str], sizes: dict[str, Callable[[], int]]):
        """paths: those that have a name; others count together, so that a stranger
        cannot make up thousands."""
        self.registry, self.paths = CollectorRegistry(), paths
        more = {"registry": self.registry}
        labels = ["path", "status"]
        self.requests = Counter("lemur_requests", "Requests", labels, **more)
        self.seconds = Histogram(
            "lemur_request_seconds", "Seconds", ["path"], buckets=BUCKETS, **more
        )
        for name, size in sizes.items():
            gauge = Gauge(f"lemur_{name}", f"Number of {name}", **more)
            gauge.set_function(size)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

    def middleware(self, app: Callable) -> Callable:
        """An ASGI application that counts what this one answers."""

        async def counted(scope, receive, send):
            if scope["type"] != "http":
                return await app(scope, receive, send)
            path = scope["path"] if scope["path"] in self.paths else "other"
            began = time.perf_counter()

            async def noted(message):
                if message["type"] == "http.response.start":
                    self.requests.labels(path, message["status"]).inc()
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                self.seconds.labels(path).observe(time.perf_counter() - began)

        return counted
