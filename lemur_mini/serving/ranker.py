"""Serving: a trained model ranks documents for a user and a query, from the bank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lemur_mini import checkpoints, finite
from lemur_mini.data.errors import DataError
from lemur_mini.data.features import encode_queries, query_limit
from lemur_mini.data.likeness import Likeness
from lemur_mini.data.match import Match
from lemur_mini.data.pages import Batch
from lemur_mini.devices import autocast
from lemur_mini.memory_bank import NEVER
from lemur_mini.model import Lemur
from lemur_mini.preparation import Prepared
from lemur_mini.serving.artefact import Artefact
from lemur_mini.serving.events import Histories
from lemur_mini.serving.known import Encodable
from lemur_mini.serving.state import Request, State, check_rows
from lemur_mini.training import Part


def _as_trained(prepared: Prepared, part: Part | None) -> Prepared:
    """With `match` by the weights that the run has learnt, where it says so: a stream
    has learnt them of its first impressions."""
    learnt = part and part.past and part.past.matcher
    if not learnt or _alike(learnt, prepared.matcher):
        return prepared
    texts, parts = prepared.dataset.texts, []
    if isinstance(learnt, Likeness):
        parts = [prepared.features.images.cpu().numpy()]
    return replace(prepared, matcher=learnt.over(texts, *parts))


def _alike(learnt: Match | Likeness, other: Match | Likeness | None) -> bool:
    """Whether both have learnt the same."""
    if type(learnt) is not type(other):
        return False
    a, b = learnt.weights(), other.weights()
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first: catalogue rows (S,) and chances of a watch (S,)."""

    items: np.ndarray
    chance: np.ndarray


class Ranker(State, Artefact):
    """Ranks by name what the model knows by row. No document Transformer runs: vectors
    come from the bank (paper, section 4). A user or a query that training never saw
    gets the row of the unknown; the text of a query is read all the same. Everything
    that cannot be answered is a DataError: a query asked of a feed, vectors asked of a
    model without any, candidates that are no rows of the catalogue.

    Any number of threads may rank while others add documents, events and vectors: each
    answer is of one state of the catalogue, before or after."""

    @classmethod
    def load(
        cls, checkpoint: Path, prepared: Prepared, histories: Histories | None = None
    ) -> Ranker:
        """The model of a checkpoint, its rows found in this data by their ids; what
        training never saw gets the unknown's row and a vector of its content. Raises
        CheckpointError where there is none, or the two do not belong together."""
        device = prepared.features.tokens.device
        facts, tensors = checkpoints.read(checkpoint)
        model = checkpoints.build(
            checkpoint, facts, tensors, device, prepared.fingerprint
        )
        prepared = _as_trained(prepared, checkpoints.part_of(facts, tensors))
        if model.config.has_content:
            step = int(model.bank.written.max()) + 1
            model.publish(prepared.features, step=max(step, 0))
        return cls(model, prepared, histories)

    @torch.no_grad()
    def scores(self, requests: list[Request], before: int | None = None) -> np.ndarray:
        """Chances of a watch (P, S), in the order of the requests' candidates; what
        stands beyond a shorter request's candidates means nothing."""
        model, query, target = self.model, None, None  # one state, to the end
        batch = self.batch(requests, before, model.sizes.documents).to(self.device)
        with autocast(model.config, self.device):
            if model.config.has_content:
                texts = [text for _, text, _ in requests]
                query = self._query_vectors(model, texts, batch)
                target = model.bank.read(batch.item)[0]
            chance = model.rank(batch, query, target).float().sigmoid().cpu()
        finite.require(chance[batch.mask.cpu()].numpy(), "chances")
        return chance.numpy()

    def rank_many(
        self, requests: list[Request], before: int | None = None
    ) -> list[Ranked]:
        """Rank many requests (user_id, query text, candidates) in one batch."""
        out = []
        chances = self.scores(requests, before) if requests else []
        for (_, _, shown), chance in zip(requests, chances, strict=True):
            chance = chance[: len(shown)]
            order = np.argsort(-chance, kind="stable")
            out.append(Ranked(np.asarray(shown)[order], chance[order]))
        return out

    def rank(
        self, user, query: str, candidates: np.ndarray, before: int | None = None
    ) -> Ranked:
        """Order candidates (S,) for a user (user_id) who asks a query (text)."""
        return self.rank_many([(user, query, candidates)], before)[0]

    def rank_ids(self, user, query: str, items: list) -> list[tuple]:
        """Order documents by their own ids: pairs of item_id and chance, best first.
        Raises DataError for one that is not in the catalogue."""
        ranked = self.rank(user, query, self.rows_of(items))
        return list(zip(self.ids_of(ranked.items), ranked.chance.tolist(), strict=True))

    @torch.no_grad()
    def retrieve(self, query: str, count: int) -> np.ndarray:
        """Catalogue rows of the documents whose vectors are nearest to the query's:
        `count` of them, or all that the bank holds where those are fewer."""
        if count < 1:
            raise DataError(f"count {count}: ask for one document or more")
        vector, bank = self.query_vector(query), self.model.bank
        cosine = F.normalize(bank.vectors, dim=-1) @ vector
        cosine = cosine.masked_fill(bank.written == NEVER, -torch.inf)
        count = min(count, int((bank.written > NEVER).sum()))
        return cosine.topk(count).indices.cpu().numpy()

    @torch.no_grad()
    def query_vector(self, query: str) -> Tensor:
        """The query's representation, scaled to length one: (D,)."""
        self._check_vectors()
        self._check_query(query)
        if self.known.feed:
            raise DataError("a feed has no queries, so there is no vector of one")
        return F.normalize(self._query_vectors(self.model, [query])[0], dim=-1)

    def _query_vectors(
        self, model: Lemur, texts: list[str], batch: Batch | None = None
    ) -> Tensor:
        """Representations (P, D) of query texts, known or not; in a feed, of what the
        batch has in their place."""
        if self.known.feed and batch is not None:
            return model.feed_queries(batch)[0]
        limit, distinct = query_limit(model.config), list(dict.fromkeys(texts))
        tokens, length = encode_queries(self.known.tokenizer, distinct, limit)
        vectors = model.query_encoder(tokens.to(self.device), length.to(self.device))
        place = [distinct.index(text) for text in texts]
        return model.running_norms["query"](vectors)[place]

    @torch.no_grad()
    def reasons(self, user, candidates: np.ndarray) -> np.ndarray:
        """Cosines of candidates with `history(user)`, from the bank: (S, L), 0 where
        there is no history. What the similarity module sees (paper, section 5); the
        decoder's attention is spread too evenly to name a reason."""
        self._check_vectors()
        bank, rows = self.model.bank, torch.from_numpy(self.history(user).copy())
        check_rows(np.asarray(candidates), len(bank.vectors))
        history, found = bank.read(rows[None].to(bank.written.device))
        target = bank.vectors[torch.as_tensor(np.asarray(candidates))][None]
        return self.model.similarity.cosines(target, history, found)[0].cpu().numpy()

    # --- the catalogue ----------------------------------------------------------------

    def add_documents(
        self, documents: list[dict], record: Callable[[list[dict]], None] | None = None
    ) -> np.ndarray:
        """Make new documents rankable at once: each is encoded once and written to the
        bank, in time proportional to what is new. Returns their catalogue rows. record:
        is called with them when they are found good and nobody has seen them yet.

        A document is a dictionary with item_id, any of the data set's text fields, and
        an image (encoded bytes, or a path), if there is one. Their id embedding is the
        unknown's: no click has said anything of them. Raises DataError."""
        with self._writing:
            encoded = self.encode(documents)
            if record is not None:
                record(documents)
            rows = self.publish(encoded)
            if self._prepared is not None:
                self._added += documents
        return rows

    @torch.no_grad()
    def encode(self, documents: list[dict]) -> tuple[Encodable, Tensor | None]:
        """Documents that can be published, with their vectors; changes nothing. Raises
        DataError."""
        model, vectors = self.model, None
        new = self.known.read(documents, model.config)
        if model.config.has_content:
            features = new.features.to(self.device)
            rows = torch.arange(len(new.ids), device=self.device)
            with autocast(model.config, self.device):
                vectors = model.encode(features, rows).float()
            finite.require(vectors.cpu().numpy(), "vectors")
        return new, vectors

    def publish(self, encoded: tuple[Encodable, Tensor | None]) -> np.ndarray:
        """Put documents that were encoded into the catalogue: their rows."""
        new, vectors = encoded
        with self._writing:
            old, count = self.model.sizes.documents, len(new.ids)
            step = 0 if vectors is None else self.now()
            self.numbers.grow(new.texts, new.features.images.cpu().numpy(), count)
            self._shelf.add(count, vectors, step)
            self.known.add(new)  # last: who finds a name finds its row
        return np.arange(old, old + count)

    def refresh(self, rows: np.ndarray, vectors: Tensor) -> None:
        """Other vectors (M, D) for documents (catalogue rows, (M,)), all at once: what
        their encoder says after more training. Raises DataError."""
        self._check_vectors()
        with self._writing:
            check_rows(np.asarray(rows), self.model.sizes.documents)
            finite.require(vectors.cpu().numpy(), "vectors")
            place = torch.as_tensor(rows).to(self.device)
            self._shelf.refresh(place, vectors.to(self.device), self.now())

    def now(self) -> int:
        """A step after every write of the bank."""
        return max(int(self.model.bank.written.max()) + 1, 0)
