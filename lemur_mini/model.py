"""Lemur assembles the parts: one batch's way from pages to losses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini import losses
from lemur_mini.config import Config
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.distributed import ALONE, Ranks
from lemur_mini.encoders import DocumentEncoder, QueryEncoder, RunningNorm
from lemur_mini.longer import Longer
from lemur_mini.memory_bank import NEVER
from lemur_mini.ranker import RANKERS
from lemur_mini.sequence import Decoder, Din, SimilarityModule, most_similar


@dataclass(frozen=True)
class Sizes:
    """What the data says of the model's tables."""

    users: int
    documents: int
    queries: int
    vocabulary: int
    fields: int
    feed: bool = False  # sessions without queries: the last watched item is the anchor


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch; `total` is what is minimised. On several ranks, each has
    its own and their mean is the batch's."""

    total: Tensor
    ctr: Tensor
    sqdc: Tensor


@dataclass(frozen=True)
class Plan:
    """What one training step does beyond its batch."""

    step: int
    order: Tensor  # (U,) random in [0, 1), decides which documents are encoded
    forward_share: float = 1.0  # p
    backward_share: float = 1.0  # q
    sqdc_weight: float = 0.0  # lambda
    rank: bool = True  # else the contrast alone, as in two-stage pre-training


def take(vectors: Tensor, rows: Tensor) -> Tensor:
    """vectors[rows], for rows that repeat: indexing adds up the gradients of a row in
    whatever order threads come, and two runs of one seed then differ."""
    return F.embedding(rows, vectors)


class Lemur(nn.Module):
    """The ranker over ids and, where a feature group asks for it, over content.

    Which parts exist follows from `config.groups`; the baseline is Lemur without the
    content groups. Rows of documents below 0 are padding everywhere. Several `ranks`
    get the same batch and share its work: all call the same methods in step."""

    def __init__(self, config: Config, sizes: Sizes, ranks: Ranks = ALONE):
        super().__init__()
        self.config, self.sizes, self.frozen = config, sizes, False
        self.ranks = ranks
        e, d, heads = config.id_width, config.width, config.heads
        # row 0 is for the unknown; a small start keeps the unseen near zero
        self.ids = nn.ModuleDict(
            {
                name: nn.Embedding(count + 1, e)
                for name, count in (
                    ("user", sizes.users),
                    ("item", sizes.documents),
                    ("query", sizes.queries),
                )
            }
        )
        for table in self.ids.values():
            nn.init.normal_(table.weight, std=0.05)
        widths = {"user": e, "item": e, "query": e, "longer": 2 * config.token_width}
        if "longer" in config.groups:
            self.longer = Longer(e, config.token_width, heads, config)
        if "din" in config.groups:
            self.din, widths["din"] = Din(e), 2 * e
        if config.has_content:
            self.document_encoder = DocumentEncoder(
                config, sizes.vocabulary, sizes.fields
            )
            if not sizes.feed:
                self.query_encoder = QueryEncoder(config, sizes.vocabulary)
            self.norms = nn.ModuleDict(
                {name: RunningNorm(d) for name in ("query", "document")}
            )
            self.bank = ranks.bank(sizes.documents, d)
            self.ask = nn.Linear(3 * d + 2 * e, d)
            if config.cic_weight:
                self.to_identity = nn.Linear(d, e)
            self.similarity = SimilarityModule(config.similarity_sorted)
            lengths = {"long": config.history_long, "short": config.history_short}
            values = sum(n for name, n in lengths.items() if name in config.groups)
            values *= 1 + config.similarity_sorted
            widths |= {"content": 3 * d, "long": d, "short": d, "similarity": values}
        for name in ("long", "short"):
            if name not in config.groups:
                continue
            layers, literal = config.decoder_layers, config.decoder_literal
            self.add_module(name, Decoder(d, heads, layers, literal))
        self.ranker = RANKERS[config.ranker](
            {g: widths[g] for g in config.groups}, config
        )

    # --- representations -------------------------------------------------------------

    def encode(self, features: Features, rows: Tensor) -> Tensor:
        """Fresh representations of documents. rows: (B,). Returns (B, D).

        Ranks share the documents out, so that none is encoded twice."""
        if not len(rows):
            return self.bank.vectors.new_zeros(0, self.config.width)
        length = features.length[rows]
        order = length.argsort()  # like lengths together: little padding to compute
        own = rows[order][self.ranks.own(len(rows))]
        chunks = own.split(self.config.encode_chunk)
        last = torch.stack([part[-1] for part in chunks])
        longest = features.length[last].tolist()  # the host waits once, not per chunk
        parts = [
            self.document_encoder(features, part, length)
            for part, length in zip(chunks, longest, strict=True)
        ]
        vectors = self.ranks.gather(torch.cat(parts), len(rows))
        return self.norms["document"](vectors[order.argsort()])

    def refresh(self, batch: Batch, features: Features, plan: Plan) -> Tensor:
        """Encode a share p of the batch's distinct documents, q of them with gradient,
        read the rest from the bank, write what is fresh (paper, section 4).

        Documents that the bank lacks come first and always go forward. # our choice:
        shares are counts, drawn without replacement, not a coin toss per document.
        Returns (U, D)."""
        rows = batch.unique
        known, found = self.bank.read(rows)
        if self.frozen:  # all was published when it froze
            return known
        queue = torch.argsort(plan.order + found)  # unseen first, then at random
        stale = plan.step % self.config.write_every > 0  # on purpose: an experiment
        # how many are missing matters, and is waited for, only where some are left out
        asks = stale or plan.forward_share < 1
        missing = int((~found).sum()) if asks else 0
        forward = max(math.ceil(plan.forward_share * len(rows)), missing)
        backward = min(math.ceil(plan.backward_share * len(rows)), forward)
        learns = queue[:backward]
        fresh = self.encode(features, rows[learns])  # bf16 on a GPU, the bank fp32
        vectors = known.index_copy(0, learns, fresh.to(known.dtype))
        if forward > backward:
            rest = queue[backward:forward]
            with torch.no_grad():
                fresh = self.encode(features, rows[rest])
            vectors = vectors.index_copy(0, rest, fresh.to(known.dtype))
        written = queue[: missing if stale else forward]
        self.bank.write(rows[written], vectors[written], plan.step)
        return vectors

    @torch.no_grad()
    def publish(
        self, features: Features, rows: Tensor | None = None, step: int = 0
    ) -> int:
        """Write a vector for every document that the bank lacks, as at upload time;
        of these rows, or of the whole catalogue. Returns how many there were."""
        if rows is None:
            rows = torch.arange(self.sizes.documents, device=self.bank.vectors.device)
        (written,) = self.bank.fetch(rows, self.bank.written)
        rows = rows[written == NEVER]
        for part in rows.split(512):
            self.bank.write(part, self.encode(features, part), step)
        return len(rows)

    @torch.no_grad()
    def grow(self, documents: int) -> None:
        """Serve a larger catalogue. The bank lacks what is new until it is published;
        the id embedding is the unknown's, row 0. Optimisers know nothing of it."""
        table = self.ids["item"]
        more = table.weight[:1].expand(documents - self.sizes.documents, -1)
        weight = torch.cat([table.weight, more])
        self.ids["item"] = nn.Embedding.from_pretrained(weight, freeze=False)
        if self.config.has_content:
            self.bank.grow(documents)
        self.sizes = dataclasses.replace(self.sizes, documents=documents)

    def freeze(self, features: Features) -> None:
        """Two-stage: encode the whole catalogue once, train no encoder from now on."""
        for name, module in self.named_children():
            if name.endswith("encoder"):
                module.requires_grad_(False)
        self.bank.forget()
        self.publish(features)
        self.frozen = True

    def anchors(self, batch: Batch, features: Features) -> tuple[Tensor, Tensor]:
        """Query representations (P, D) and whether there is one (P,).

        In a feed: the bank's vector of the last watched document."""
        if self.sizes.feed:
            return self.bank.read(batch.history[:, 0])
        distinct = batch.queries
        own = distinct[self.ranks.own(len(distinct))]
        vectors = self.query_encoder(
            features.query_tokens[own], features.query_length[own]
        )
        vectors = self.norms["query"](self.ranks.gather(vectors, len(distinct)))
        there = torch.ones_like(batch.asked, dtype=torch.bool)
        return take(vectors, batch.asked), there

    # --- ranking ---------------------------------------------------------------------

    def rank(
        self,
        batch: Batch,
        query: Tensor | None,
        target: Tensor | None,
        fresh: Tensor | None = None,
    ) -> Tensor:
        """Logits (P, S). query: (P, D), target: (P, S, D); None for the id baseline.
        fresh: (U, D) of `batch.unique`, where histories carry its gradient."""
        p, s = batch.item.shape
        user = self.ids["user"](batch.user + 1)  # (P, E)
        item = self.ids["item"](batch.item + 1)  # (P, S, E)
        words = self.ids["query"](batch.query + 1)
        features = {"user": user[:, None], "item": item, "query": words[:, None]}
        if {"longer", "din"} & set(self.config.groups):
            watched, mask = self.ids["item"](batch.history + 1), batch.history >= 0
        if "longer" in self.config.groups:
            features["longer"] = self.longer(item, user, watched, mask)
        if "din" in self.config.groups:
            features["din"] = self.din(item, watched, mask)
        if self.config.has_content:
            history = self.history(batch, fresh)
            features |= self.content(history, query, target, user, item)
        flat = {
            g: features[g].expand(p, s, -1).flatten(0, 1) for g in self.config.groups
        }  # (P * S, F)
        return self.ranker(flat).view(p, s)

    def history(self, batch: Batch, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
        """Representations of the histories (P, L, D), and whether they are known."""
        vectors, found = self.bank.read(batch.history)
        if fresh is None:
            return vectors, found
        place = torch.searchsorted(batch.unique, batch.history)
        place = place.clamp(max=len(batch.unique) - 1)
        here = batch.unique[place] == batch.history
        return torch.where(here[..., None], take(fresh, place), vectors), found

    def content(
        self,
        history: tuple[Tensor, Tensor],
        query: Tensor,
        target: Tensor,
        user: Tensor,
        item: Tensor,
    ) -> dict[str, Tensor]:
        """The feature groups made of representations, each (P, S, F)."""
        groups, k = self.config.groups, self.config.history_short
        if self.config.stop_gradient:
            query, target = query.detach(), target.detach()
        asked = query[:, None].expand_as(target)  # (P, S, D)
        product = F.normalize(asked, dim=-1) * F.normalize(target, dim=-1)
        out = {
            "content": torch.cat([asked, target, product * target.shape[-1]], dim=-1)
        }
        long, found = history  # (P, L, D), (P, L)
        short, near = most_similar(query.detach(), long, found, k)  # (P, k, D)
        person = user[:, None].expand_as(item)
        ask = self.ask(torch.cat([out["content"], person, item], dim=-1))
        sequences = {"long": (long, found), "short": (short, near)}
        sequences = {name: pair for name, pair in sequences.items() if name in groups}
        for name, pair in sequences.items():
            out[name] = self.get_submodule(name)(ask, *pair)
        if "similarity" in groups:
            cosines = [self.similarity(target, *pair) for pair in sequences.values()]
            out["similarity"] = torch.cat(cosines, dim=-1)
        return out

    def forward(self, batch: Batch, features: Features) -> Tensor:
        """Serving: logits (P, S) from the bank alone; no document is encoded."""
        own = self.ranks.own(len(batch.user))
        mine, query, target = batch.pages(own), None, None
        if self.config.has_content:
            query = self.anchors(batch, features)[0][own]
            target = self.bank.read(mine.item)[0]
        return self.ranks.gather(self.rank(mine, query, target), len(batch.user))

    def contrast(
        self, batch: Batch, query: Tensor, target: Tensor, use: Tensor
    ) -> Tensor:
        """SQDC of the impressions in `use` (P, S), on the own pages of a rank against
        the targets of all.
        # our choice: per impression, so that lambda does not depend on the batch."""
        config, pages = self.config, self.ranks.own(len(use))
        place = torch.arange(use.numel(), device=use.device).view_as(use)
        total = losses.sqdc(
            query[:, None].expand_as(target).flatten(0, 1),
            target.flatten(0, 1),
            batch.label.flatten(),
            batch.qid[:, None].expand_as(use).flatten(),
            config.temperature,
            config.session_mask,
            config.sqdc_negatives,
            use.flatten(),
            place[pages].flatten(),
        )
        return total / batch.mask[pages].sum()

    def losses(self, batch: Batch, features: Features, plan: Plan) -> Losses:
        """One training step's losses: encode, write, read, rank (the paper's order).

        A rank encodes its own documents, gathers all, and ranks its own pages."""
        config, mask = self.config, batch.mask
        own = self.ranks.own(len(mask))
        mine = batch.pages(own)
        weight = self.ranks.weight(mask)
        query = target = vectors = None
        contrast = torch.zeros((), device=batch.item.device)
        if config.has_content:
            vectors = self.refresh(batch, features, plan)
            query, there = self.anchors(batch, features)
            target = take(vectors, batch.inverse) * mask[..., None]  # (P, S, D)
            contrast = self.contrast(batch, query, target, mask & there[:, None])
            query, target = query[own], target[own]
        click = torch.zeros((), device=batch.item.device)
        if plan.rank:
            fresh = vectors if config.history_gradient else None
            logit = self.rank(mine, query, target, fresh)
            click = losses.ctr(logit, mine.label, mine.mask)
        click, contrast = weight * click, weight * contrast
        total = click + plan.sqdc_weight * contrast
        if config.experts and plan.rank:
            share = self.ranks.weight(torch.ones_like(mask))
            total = total + share * config.expert_l1 * self.ranker.penalty()
        if config.cic_weight:
            identity = self.ids["item"](batch.unique + 1)
            total = total + config.cic_weight * losses.cic(
                self.to_identity(vectors), identity, config.temperature
            )
        return Losses(total, click.detach(), contrast.detach())
