"""Lemur assembles the parts: one batch's way from pages to losses."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini import losses
from lemur_mini.baselines import Din, DlrmMlp
from lemur_mini.config import CONTEXT, Config
from lemur_mini.data.features import Features
from lemur_mini.data.pages import Batch
from lemur_mini.dense import Context, Dense
from lemur_mini.devices import autocast
from lemur_mini.encoders import DocumentEncoder, QueryEncoder, RunningNorm
from lemur_mini.id_tables import Table
from lemur_mini.longer import Longer
from lemur_mini.memory_bank import NEVER, MemoryBank
from lemur_mini.ranker import RankMixer
from lemur_mini.sequence import (
    Decoder,
    Products,
    SimilarityModule,
    Wide,
    identity,
    largest,
)

RANKERS: dict[str, type[RankMixer | DlrmMlp]] = {
    "rankmixer": RankMixer,
    "dlrm": DlrmMlp,
}
ALL = slice(None)


@dataclass(frozen=True)
class Sizes:
    """What the data says of the model's tables."""

    users: int
    documents: int
    queries: int
    vocabulary: int
    fields: int
    feed: bool = False  # sessions without queries
    statistics: int = 0  # numbers an impression, of these groups
    match: int = 0
    context: int = 0
    kinds: tuple[int, ...] = ()  # rows for words of each such column of the context

    def __post_init__(self):
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a file keeps lists

    def read_by(self, config: Config) -> Sizes:
        """What a model of this configuration reads of them."""
        numbers = {"statistics": self.statistics, "match": self.match}
        numbers |= {"context": self.context}
        kinds = self.kinds if CONTEXT in config.groups else ()
        read: dict = {name: n * (name in config.groups) for name, n in numbers.items()}
        return Sizes(**dataclasses.asdict(self) | read | {"kinds": kinds})


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch, or of some pages' part of it; `total` is minimised."""

    total: Tensor
    ctr: Tensor
    sqdc: Tensor

    def scaled(self, factor: float) -> Losses:
        """All of them times a number."""
        return Losses(self.total * factor, self.ctr * factor, self.sqdc * factor)


@dataclass(frozen=True)
class StepOptions:
    """What one training step does beyond its batch."""

    step: int
    order: Tensor  # (U,) random in [0, 1), decides which documents are encoded
    forward_share: float = 1.0  # p
    backward_share: float = 1.0  # q
    sqdc_weight: float = 0.0  # lambda
    rank: bool = True  # else the contrast alone, as in two-stage pre-training


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """vectors[rows], for rows that repeat: indexing adds up the gradients of a row in
    whatever order threads come, and two runs of one seed then differ."""
    return F.embedding(rows, vectors)


def mean_of(vectors: Tensor, found: Tensor) -> Tensor:
    """Mean (P, D) of those of vectors (P, L, D) that are found (P, L); 0 if none."""
    weight = found.to(vectors.dtype)
    count = weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (vectors * weight[..., None]).sum(dim=1) / count


def group_widths(config: Config) -> dict[str, int]:
    """Numbers that each feature group of the configuration gives the ranker."""
    e, d, groups = config.id_width, config.width, config.groups
    lengths = {"long": config.history_long, "short": config.history_short}
    values = sum(2 * n for name, n in lengths.items() if name in groups)
    widths = {"user": e, "item": e, "query": e, "longer": 2 * config.token_width}
    widths |= {"din": 2 * e, "content": 3 * d, "long": d, "short": d}
    if config.history_products:
        widths["long"] += len(pools(config)) * (d + 1)
    own = [name for name in groups if name not in config.dense]
    return {name: (widths | {"similarity": values})[name] for name in own}


def dense_parts(config: Config, sizes: Sizes) -> nn.ModuleDict:
    """What reads the groups of numbers that the configuration names. Raises ValueError
    where the data was prepared without one."""
    for name in config.dense:
        if not getattr(sizes, name):
            raise ValueError(
                f"the data holds no {name}: prepare it with this configuration, or "
                "leave the group out"
            )
    parts: dict[str, nn.Module] = {
        name: Dense(getattr(sizes, name), config.dense_knots)
        for name in config.dense
        if name != CONTEXT
    }
    if CONTEXT in config.dense:
        parts[CONTEXT] = Context(sizes.context, sizes.kinds)
    return nn.ModuleDict(parts)


def chunk_ends(lengths: list[int], budget: int) -> list[int]:
    """Where to cut documents, given in order of length, so that no chunk holds more
    than `budget` text tokens with its padding, or one document."""
    ends, begin = [], 0
    for place, length in enumerate(lengths):
        if place > begin and (place + 1 - begin) * length > budget:
            ends.append(place)
            begin = place
    return [*ends, len(lengths)]


def _numbers(batch: Batch, name: str) -> Tensor:
    """A group of dense features of a batch (P, S, F)."""
    values = getattr(batch, name)
    if values is None:
        raise ValueError(
            f"the batch holds no {name}, which this model reads; prepare the data with "
            "the model's configuration"
        )
    return values


def pools(config: Config) -> list[str]:
    """Which histories are pooled for products with the target."""
    return ["watched", "skipped"] if config.history_seen else ["watched"]


class Lemur(nn.Module):
    """The ranker over ids and, where a feature group asks for it, over content.

    Which parts exist follows from `config.groups`; the baseline is Lemur without the
    content groups. Rows of documents below 0 are padding everywhere."""

    ids: nn.ModuleDict
    longer: Longer
    din: Din
    dense: nn.ModuleDict
    document_encoder: DocumentEncoder
    query_encoder: QueryEncoder
    running_norms: nn.ModuleDict
    bank: MemoryBank
    decoder_query: nn.Linear
    to_identity: nn.Linear
    similarity: SimilarityModule
    decoders: nn.ModuleDict
    head: nn.Linear
    products: nn.ModuleDict
    wide: Wide
    ranker: RankMixer | DlrmMlp

    def __init__(self, config: Config, sizes: Sizes):
        super().__init__()
        self.config, self.sizes, self.frozen = config, sizes, False
        groups, e, d, heads = config.groups, config.id_width, config.width, config.heads
        ids = {"user": sizes.users, "item": sizes.documents, "query": sizes.queries}
        self.ids = nn.ModuleDict(
            {name: self.make_table(count + 1, e) for name, count in ids.items()}
        )
        for table in self.ids.values():
            table.draw(0.05)
        if "longer" in groups:
            self.longer = Longer(e, config.token_width, heads, config)
        if "din" in groups:
            self.din = Din(e)
        if config.has_content:
            words = sizes.vocabulary
            self.document_encoder = DocumentEncoder(config, words, sizes.fields)
            if not sizes.feed:
                self.query_encoder = QueryEncoder(config, words)
            self.running_norms = nn.ModuleDict(
                {"query": RunningNorm(d), "document": RunningNorm(d)}
            )
            self.bank = self.make_bank(sizes.documents, d)
            self.decoder_query = nn.Linear(3 * d + 2 * e, d)
            if config.cic_weight:
                self.to_identity = nn.Linear(d, e)
            self.similarity = SimilarityModule()
            layers, literal = config.decoder_layers, config.decoder_literal
            self.decoders = nn.ModuleDict(
                {
                    name: Decoder(d, heads, layers, literal=literal)
                    for name in ("long", "short")
                    if name in groups
                }
            )
        if config.has_content and config.sqdc_head:
            self.head = identity(d)
        if config.has_content and config.history_products:
            kinds = pools(config)
            self.products = nn.ModuleDict({kind: Products(d) for kind in kinds})
            if config.history_wide:
                self.wide = Wide(len(kinds), d)
        self.dense = dense_parts(config, sizes)
        widths = group_widths(config)
        widths |= {name: part.width for name, part in self.dense.items()}
        self.ranker = RANKERS[config.ranker](widths, config)

    def make_table(self, rows: int, width: int) -> Table:
        """Embeddings of ids, not drawn yet."""
        return Table(rows, width, sparse=self.config.id_optimizer == "adagrad")

    def make_bank(self, documents: int, width: int) -> MemoryBank:
        """An empty bank."""
        return MemoryBank(documents, width)

    @property
    def encoders(self) -> list[nn.Module]:
        """The parts that have a learning rate of their own and that two-stage freezes,
        none without content."""
        if not self.config.has_content:
            return []
        queries = [] if self.sizes.feed else [self.query_encoder]
        return [self.document_encoder, *queries]

    # --- one training step -----------------------------------------------------------

    def losses(
        self,
        batch: Batch,
        features: Features,
        options: StepOptions,
        pages: slice = ALL,
    ) -> Losses:
        """One training step's losses: encode, write, read, rank (the paper's order).

        With `pages`, the part of the batch's losses that these pages have: all is
        encoded, they alone are ranked, and the parts of all pages sum to the whole."""
        config, mine = self.config, batch.pages(pages)
        fresh = query = target = None
        sqdc = ctr = torch.zeros((), device=batch.item.device)
        if config.has_content:
            fresh = self.encode_and_write(batch, features, options)  # (U, D)
            query, valid = self.encode_queries(batch, features)  # (P, D), (P,)
            target = gather_rows(fresh, batch.item_index)  # (P, S, D)
            target = target * batch.mask[..., None]
            valid = batch.mask & valid[:, None]
            sqdc = self.contrastive_loss(batch, query, target, valid, pages)
            query, target = query[pages], target[pages]
        if options.rank:
            self.see_numbers(batch)
            seen = fresh if config.history_gradient else None
            kept = self.kept_ids(batch, options)[pages] if config.id_dropout else None
            logit = self.rank(mine, query, target, seen, kept)  # (P, S)
            ctr = losses.ctr(logit, mine.label, mine.mask, batch.mask.sum())
        total = ctr + options.sqdc_weight * sqdc
        share = len(mine.user) / len(batch.user)
        if config.experts and options.rank:
            total = total + share * config.expert_l1 * self.ranker.penalty()
        if fresh is not None and config.cic_weight:
            total = total + share * config.cic_weight * self.cic_loss(batch, fresh)
        return Losses(total, ctr.detach(), sqdc.detach())

    def encode_and_write(
        self, batch: Batch, features: Features, options: StepOptions
    ) -> Tensor:
        """Encode a share p of the batch's distinct documents, q of them with gradient,
        read the rest from the bank, write what is fresh (paper, section 4).

        Documents that the bank lacks come first and always go forward. # our choice:
        shares are counts, drawn without replacement, not a coin toss per document.
        Returns (U, D)."""
        rows = batch.unique_items
        known, found = self.bank.read(rows)
        if self.frozen:  # all was published when it froze
            return known
        queue = torch.argsort(options.order + found)  # unseen first, then at random
        stale = options.step % self.config.write_every > 0  # on purpose: an experiment
        # how many are missing matters, and is waited for, only where some are left out
        counts = stale or options.forward_share < 1
        missing = int((~found).sum()) if counts else 0
        forward = max(math.ceil(options.forward_share * len(rows)), missing)
        backward = min(math.ceil(options.backward_share * len(rows)), forward)
        learns = queue[:backward]
        fresh = self.encode(features, rows[learns])  # bf16 on a GPU, the bank fp32
        vectors = known.index_copy(0, learns, fresh.to(known.dtype))
        if forward > backward:
            rest = queue[backward:forward]
            with torch.no_grad():
                fresh = self.encode(features, rows[rest])
            vectors = vectors.index_copy(0, rest, fresh.to(known.dtype))
        written = queue[: missing if stale else forward]
        self.bank.write(rows[written], vectors[written], options.step)
        return vectors

    def encode(self, features: Features, rows: Tensor) -> Tensor:
        """Fresh representations of documents. rows: (B,). Returns (B, D)."""
        if not len(rows):
            return self.bank.vectors.new_zeros(0, self.config.width)
        order = features.length[rows].argsort()  # like lengths together: less padding
        vectors = self.encode_in_chunks(features, rows[order])
        return self.running_norms["document"](vectors[order.argsort()])

    def encode_in_chunks(self, features: Features, rows: Tensor) -> Tensor:
        """What the encoder says of rows (B,) in order of length: (B, D)."""
        lengths = features.length[rows].tolist()  # the host waits once, not per chunk
        ends = chunk_ends(lengths, self.config.encode_tokens)
        parts = [
            self.document_encoder(features, part, lengths[end - 1])
            for part, end in zip(rows.tensor_split(ends[:-1]), ends, strict=True)
        ]
        return torch.cat(parts)

    def encode_queries(self, batch: Batch, features: Features) -> tuple[Tensor, Tensor]:
        """Query representations (P, D) and whether there is one (P,)."""
        if self.sizes.feed:
            return self.feed_queries(batch)
        vectors = self.encode_texts(features, batch.queries)
        vectors = self.running_norms["query"](vectors)
        valid = torch.ones_like(batch.query_index, dtype=torch.bool)
        return gather_rows(vectors, batch.query_index), valid

    def feed_queries(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What asks where there are no queries, (P, D) and (P,), of the bank's vectors:
        that of the last watched document, or the mean of the history."""
        if self.config.feed_query == "last":
            return self.bank.read(batch.history[:, 0])
        vectors, found = self.bank.read(batch.history)
        return mean_of(vectors, found), found.any(dim=1)

    def encode_texts(self, features: Features, queries: Tensor) -> Tensor:
        """What the encoder says of distinct query texts (Q,): (Q, D)."""
        tokens, length = features.query_tokens[queries], features.query_length[queries]
        return self.query_encoder(tokens, length)

    def contrastive_loss(
        self,
        batch: Batch,
        query: Tensor,
        target: Tensor,
        valid: Tensor,
        pages: slice = ALL,
    ) -> Tensor:
        """SQDC of the impressions that are valid (P, S), summed over those on `pages`
        against the targets of all.
        # our choice: per impression, so that lambda does not depend on the batch."""
        config, label = self.config, batch.label
        anchor = query[:, None].expand_as(target)
        if self.sizes.feed and config.feed_contrast == "positives":
            valid = batch.mask
            anchor, found = losses.others(target, (label > 0.5) & valid)
            label = found.to(label.dtype)
        if config.sqdc_head:
            target = self.head(target)
        place = torch.arange(valid.numel(), device=valid.device).view_as(valid)
        total = losses.sqdc(
            anchor.flatten(0, 1),
            target.flatten(0, 1),
            label.flatten(),
            qid=batch.qid[:, None].expand_as(valid).flatten(),
            temperature=config.temperature,
            session_mask=config.session_mask,
            negatives=config.sqdc_negatives,
            valid=valid.flatten(),
            own=place[pages].flatten(),
        )
        return total / batch.mask.sum()

    def see_numbers(self, batch: Batch) -> None:
        """Take the batch's dense features into their running statistics: those of the
        whole batch, also where only some pages are ranked."""
        for name, part in self.dense.items():
            part.see(_numbers(batch, name), batch.mask)

    def cic_loss(self, batch: Batch, fresh: Tensor) -> Tensor:
        """EM3's content-id contrast over the batch's distinct documents (U, D)."""
        identity = self.ids["item"](batch.unique_items + 1)
        return losses.cic(self.to_identity(fresh), identity, self.config.temperature)

    # --- ranking ---------------------------------------------------------------------

    def forward(self, batch: Batch, features: Features) -> Tensor:
        """Serving: logits (P, S) from the bank alone; no document is encoded."""
        query = target = None
        if self.config.has_content:
            query, _ = self.encode_queries(batch, features)
            target, _ = self.bank.read(batch.item)
        return self.rank(batch, query, target)

    def rank(
        self,
        batch: Batch,
        query: Tensor | None,
        target: Tensor | None,
        fresh: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Logits (P, S). query: (P, D), target: (P, S, D); None for the id baseline.
        fresh: (U, D) of `batch.unique_items`, where histories carry its gradient.
        kept: (P, S), False where the ranker does not see a target's id."""
        p, s = batch.item.shape
        groups = self.config.groups
        user = self.ids["user"](batch.user + 1)  # (P, E)
        item = self.ids["item"](batch.item + 1)  # (P, S, E)
        item = item if kept is None else item * kept[..., None]
        words = self.ids["query"](batch.query + 1)
        out = {"user": user[:, None], "item": item, "query": words[:, None]}
        if "longer" in groups:
            out["longer"] = self.longer.read(item, user, *self.watched(batch))
        if "din" in groups:
            watched, mask = self.ids["item"](batch.history + 1), batch.history >= 0
            out["din"] = self.din(item, watched, mask)
        for name, part in self.dense.items():
            out[name] = part(_numbers(batch, name))
        straight: Tensor | None = None  # a term of the logit beside the ranker's
        if query is not None and target is not None:
            history = self.history(batch, fresh)
            out |= self.content(history, query, target, user=user, item=item)
            if self.config.history_products:
                products = self.taken(batch, history, target)
                out["long"] = torch.cat([out["long"], products], dim=-1)
                straight = self.wide(products) if self.config.history_wide else None
        flat = {g: out[g].expand(p, s, -1).flatten(0, 1) for g in groups}  # (P * S, F)
        logit = self.ranker(flat).view(p, s)
        return logit if straight is None else logit + straight

    def kept_ids(self, batch: Batch, options: StepOptions) -> Tensor:
        """Of which targets (P, S) the id is shown to the ranker in this step. Those of
        new documents say nothing; so it learns to rely on content as well.
        # our choice, for feeds: as DropoutNet (Volkovs et al., 2017) does."""
        chance = (options.order * 7919) % 1  # another draw than that of `order`
        return (chance >= self.config.id_dropout)[batch.item_index]

    def watched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """LONGER's tokens of the histories (P, L/K, D), and which there are."""
        longer, table = self.longer, self.ids["item"]
        rows, mask = batch.history + 1, batch.history >= 0
        many = rows.numel() > longer.merge * len(table.weight)
        if many and longer.looks_up and longer.inner is None and not table.sparse:
            groups = mask.unflatten(1, (-1, longer.merge)).any(dim=-1)
            return longer.looked_up(table.weight, rows, mask), groups
        return longer.tokens(table(rows), mask)

    def history(self, batch: Batch, fresh: Tensor | None) -> tuple[Tensor, Tensor]:
        """Representations of the histories (P, L, D), and whether they are known."""
        vectors, found = self.bank.read(batch.history)
        if fresh is None:
            return vectors, found
        place = torch.searchsorted(batch.unique_items, batch.history)
        place = place.clamp(max=len(batch.unique_items) - 1)
        here = batch.unique_items[place] == batch.history
        return torch.where(here[..., None], gather_rows(fresh, place), vectors), found

    def taken(
        self, batch: Batch, history: tuple[Tensor, Tensor], target: Tensor
    ) -> Tensor:
        """Products of the targets with what was watched and, where the configuration
        asks, with what was shown and skipped: (P, S, F).
        # our choice: a page says as much by what was passed over. Worth 3 points of
        QAUC (data/results/trials-platform.json)."""
        read = {"watched": history}
        if self.config.history_seen:
            if batch.seen is None or batch.taken is None:
                raise ValueError(
                    "the batch does not say what was shown before, which this model "
                    "reads; prepare the data with the model's configuration"
                )
            vectors, found = self.bank.read(batch.seen)
            read = {"watched": (vectors, found & batch.taken)}
            read["skipped"] = vectors, found & ~batch.taken
        if self.config.stop_gradient:
            target = target.detach()
        parts = [self.products[kind](target, *pair) for kind, pair in read.items()]
        return torch.cat(parts, dim=-1)

    def content(
        self,
        history: tuple[Tensor, Tensor],
        query: Tensor,
        target: Tensor,
        *,
        user: Tensor,
        item: Tensor,
    ) -> dict[str, Tensor]:
        """The feature groups made of representations, each (P, S, F)."""
        if self.config.stop_gradient:
            query, target = query.detach(), target.detach()
        wide = query[:, None].expand_as(target)  # (P, S, D)
        product = F.normalize(wide, dim=-1) * F.normalize(target, dim=-1)
        content = torch.cat([wide, target, product * target.shape[-1]], dim=-1)
        long, found = history  # (P, L, D), (P, L)
        # one product for the query's cosines, which choose, and the targets'
        both = torch.cat([query.detach()[:, None], target], dim=1)  # (P, 1 + S, D)
        near, cosine = SimilarityModule.cosines(both, long, found).split(
            [1, target.shape[1]], dim=1
        )  # (P, 1, L), (P, S, L)
        best = largest(near[:, 0], found, self.config.history_short)  # (P, k)
        short = long.gather(1, best[..., None].expand(-1, -1, long.shape[2]))
        person = user[:, None].expand_as(item)
        token = self.decoder_query(torch.cat([content, person, item], dim=-1))
        sequences = {"long": (long, found), "short": (short, found.gather(1, best))}
        out = {"content": content}
        for name, decoder in self.decoders.items():
            out[name] = decoder(token, *sequences[name])
        if "similarity" in self.config.groups:
            places = best[:, None].expand(-1, target.shape[1], -1)
            cosines = {"long": cosine, "short": cosine.gather(2, places)}
            masks = {name: mask for name, (_, mask) in sequences.items()}
            out["similarity"] = self.similarities(cosines, masks)
        return out

    def similarities(self, cosines: dict, masks: dict) -> Tensor:
        """Cosines of the sequences that there are, as they are and sorted, filled up to
        their full lengths: (P, S, F)."""
        lengths = {"long": self.config.history_long, "short": self.config.history_short}
        parts = [
            self.similarity.sorted_too(cosines[name], masks[name], lengths[name])
            for name in self.decoders
        ]
        return torch.cat(parts, dim=-1)

    # --- the catalogue ---------------------------------------------------------------

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
        with autocast(self.config, rows.device):
            for part in rows.split(512):
                self.bank.write(part, self.encode(features, part), step)
        return len(rows)

    @torch.no_grad()
    def grow(self, documents: int = 0, users: int = 0, queries: int = 0) -> None:
        """Know at least so many of each. The bank lacks what is new until it is
        published; the id embedding is the unknown's, row 0. An optimiser knows nothing
        of it (see `Run.grow`)."""
        sizes, bank = self.sizes, getattr(self, "bank", None)
        counts = {"user": users, "item": documents, "query": queries}
        for name, count in counts.items():
            self.ids[name].grow(count + 1)
        if bank is not None:
            bank.grow(documents)
        self.sizes = dataclasses.replace(
            sizes,
            documents=max(documents, sizes.documents),
            users=max(users, sizes.users),
            queries=max(queries, sizes.queries),
        )

    def freeze(self, features: Features) -> None:
        """Two-stage: encode the whole catalogue once, train no encoder from now on."""
        for encoder in self.encoders:
            encoder.requires_grad_(False)
        self.bank.forget()
        self.publish(features)
        self.frozen = True
