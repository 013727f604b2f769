"""Histories in Redis: several servers share them, and they outlive each."""

from __future__ import annotations

import json

from lemur_mini.errors import Mendable
from lemur_mini.serving.events import Event


class StoreError(Mendable, ConnectionError):
    """A store of histories that does not answer; the message says where it should."""


class InRedis:
    """`Histories` in two lists a user, newest first: what was watched, what was shown.

    # our choice: an event is written to both in one transaction, so that no reader sees
    one without the other."""

    def __init__(self, url: str, watched: int, shown: int, prefix: str = "lemur"):
        """url: redis://host:port/db; watched and shown: how many are kept of a user.
        Raises StoreError where nothing answers there."""
        import redis  # optional: pip install "lemur-mini[serve]"

        self.url, self.prefix = url, prefix
        self.lengths = {"watched": watched, "shown": shown}
        self._lost = redis.RedisError
        try:
            self.client = redis.Redis.from_url(url, socket_timeout=5)
            self.client.ping()
        except (redis.RedisError, ValueError, OSError) as error:
            raise StoreError(f"{url}: no Redis answers ({error}); start it") from error

    def add(self, user, event: Event) -> None:
        """Keep one more event. Raises StoreError."""
        kinds = ["shown"] + ["watched"] * event.watched
        try:
            with self.client.pipeline(transaction=True) as together:
                for kind in kinds:
                    if length := self.lengths[kind]:
                        together.lpush(self._key(kind, user), json.dumps(event))
                        together.ltrim(self._key(kind, user), 0, length - 1)
                together.execute()
        except self._lost as error:
            raise StoreError(f"{self.url}: Redis is lost ({error})") from error

    def watched(self, user) -> list[Event]:
        """What was watched, oldest first. Raises StoreError."""
        return self._read("watched", user)

    def shown(self, user) -> list[Event]:
        """What was shown, oldest first. Raises StoreError."""
        return self._read("shown", user)

    def _read(self, kind: str, user) -> list[Event]:
        if not self.lengths[kind]:
            return []
        try:
            found = self.client.lrange(self._key(kind, user), 0, -1)
        except self._lost as error:
            raise StoreError(f"{self.url}: Redis is lost ({error})") from error
        return [Event(*json.loads(one)) for one in reversed(found)]

    def _key(self, kind: str, user) -> str:
        return f"{self.prefix}:{kind}:{json.dumps(user)}"  # 7 is not "7"
