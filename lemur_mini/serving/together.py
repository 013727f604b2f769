"""Requests that come while a page is ranked are ranked together, in one batch."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Lock

from lemur_mini.serving.ranker import Ranked, Ranker
from lemur_mini.serving.state import Request

MOST = 64  # requests of a batch


class Together:
    """Many threads ask, one at a time ranks for all that wait: threads that run small
    operations side by side only hinder one another, and a page in a batch costs less.
    No request waits for others to come."""

    def __init__(self, ranker: Ranker, most: int = MOST):
        self.ranker, self.most = ranker, most
        self._waiting: list[tuple[Request, Future]] = []
        self._list, self._turn = Lock(), Lock()

    def rank(self, request: Request) -> Ranked:
        """`Ranker.rank` of one request. Raises what that raises."""
        answer: Future = Future()
        with self._list:
            self._waiting.append((request, answer))
        while not answer.done():
            with self._turn:
                self._rank_some()
        return answer.result()

    def _rank_some(self) -> None:
        with self._list:
            some, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
        if not some:
            return
        try:
            ranked = self.ranker.rank_many([request for request, _ in some])
        except Exception:  # one of them; the others are not to suffer from it
            ranked = [self._alone(request) for request, _ in some]
        for (_, answer), one in zip(some, ranked, strict=True):
            if isinstance(one, Exception):
                answer.set_exception(one)
            else:
                answer.set_result(one)

    def _alone(self, request: Request) -> Ranked | Exception:
        try:
            return self.ranker.rank(*request)
        except Exception as error:
            return error
