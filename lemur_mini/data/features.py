"""Tokens and pixels of the whole catalogue, made once, as tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lemur_mini.config import Config
from lemur_mini.data.loading import Dataset
from lemur_mini.data.pictures import UNREADABLE, decode
from lemur_mini.data.schema import ITEMS, DataError

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
SPECIAL |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
LONGEST = 10_000  # characters of a text that the tokenizer is trained on
# what nobody sees: control characters, soft hyphens, marks of direction; not the two
# joiners, which tell words of Persian and Hindi apart
UNSEEN = r"(?![\t\n\r])\p{Cc}|[\u00AD\u200B\u200E\u200F\u202A-\u202E]"
UNSEEN += r"|[\u2060-\u2069\uFEFF]"


@dataclass(frozen=True)
class Features:
    """What the encoders read, for N documents and Q query texts.

    A document is cls, field, sep, field, ... in one row; positions count inside each
    field, type 0 is cls, then one type a field, in the order of `fields`."""

    tokens: Tensor  # (N, L) int32
    types: Tensor  # (N, L) uint8
    positions: Tensor  # (N, L) int16
    length: Tensor  # (N,) int64, tokens that are not padding
    images: Tensor  # (N, 3, H, W) uint8
    has_image: Tensor  # (N,) bool
    query_tokens: Tensor  # (Q, Lq) int32
    query_length: Tensor  # (Q,) int64

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        return Features(*(getattr(self, f.name).to(device) for f in fields(self)))

    def extended(self, new: Features) -> Features:
        """These documents and then those of `new`; queries stay as they are."""
        width = max(self.tokens.shape[1], new.tokens.shape[1])
        both = {}
        for name in ("tokens", "types", "positions", "length", "images", "has_image"):
            parts = [getattr(part, name).to(self.tokens.device) for part in (self, new)]
            if name in ("tokens", "types", "positions"):  # length hides the padding
                parts = [F.pad(p, (0, width - p.shape[1])) for p in parts]
            both[name] = torch.cat(parts)
        return replace(self, **both)


def make_tokenizer(dataset: Dataset, config: Config) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside the data, that of the pretrained model, or new
    byte pairs, trained on the texts that the log shows before the test days."""
    if config.pretrained:
        return _with_marks(load_pretrained(AutoTokenizer, config.pretrained))
    saved = dataset.folder / "tokenizer.json" if dataset.folder else None
    if saved and saved.is_file():
        return saved_tokenizer(saved)
    return train_tokenizer(_training_texts(dataset), config)


def saved_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """That of a tokenizer.json. Raises DataError."""
    return PreTrainedTokenizerFast(tokenizer_object=_read_saved(path), **SPECIAL)


def train_tokenizer(texts: Iterable[str], config: Config) -> PreTrainedTokenizerFast:
    """New byte pairs of these texts."""
    # not WordPiece: `tokenizers` trains that one differently in every process, and a
    # resumed run would read other tokens than the one it goes on from
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    tokenizer.normalizer = make_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=list(SPECIAL.values()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def make_normalizer() -> normalizers.Normalizer:
    """NFKC, lower case, ideographs one by one. Accents and the combining marks of other
    scripts stay: without them Hindi, Thai or Japanese words become other words."""
    parts = [
        normalizers.NFKC(),
        normalizers.Replace(Regex(UNSEEN), ""),
        normalizers.BertNormalizer(
            clean_text=False,  # it drops joiners, and letters newer than its tables
            strip_accents=False,
            lowercase=True,
        ),
        normalizers.NFC(),  # a lower-case letter may meet its accent only now
    ]
    return normalizers.Sequence(parts)


def _with_marks(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, which has the marks that a document is built with."""
    for mark in ("cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, mark) is None:
            raise DataError(
                f"the pretrained tokenizer has no {mark}; take one of the BERT family"
            )
    return tokenizer


def _read_saved(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # what `tokenizers` raises has no type of its own
        problem = f"{path}: not a tokenizer ({error})"
        raise DataError(f"{problem}; remove it, and one is trained") from error


def load_pretrained(kind, name: str):
    """`kind.from_pretrained(name)`, with a message for those who are offline."""
    try:
        return kind.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise ConnectionError(
            f"pretrained={name!r} is neither a local folder nor reachable on the hub; "
            "go online once, or give the path of a downloaded copy"
        ) from error


def _training_texts(dataset: Dataset) -> Iterable[str]:
    before = dataset.log.timestamp < dataset.test_start
    for row in np.unique(dataset.log.item[before]):
        fields = (values[row] or "" for values in dataset.texts.values())
        yield " ".join(text[:LONGEST] for text in fields)
    for row in np.unique(dataset.log.query[before]):
        yield dataset.queries[row][:LONGEST]


def make_features(
    dataset: Dataset, config: Config, tokenizer: PreTrainedTokenizerFast
) -> Features:
    """Tokenize every text and decode every image of the catalogue.

    An image that cannot be decoded is counted in `dataset.counts`, and the document
    goes on without it, like one that has none."""
    names, encoded = order_fields(dataset, config), []
    for name in names:
        limit = field_limit(config, name)
        ids, cut = _encode(tokenizer, dataset.texts[name], limit)
        encoded.append(ids)
        dataset.counts[f"{name} longer than the {limit} tokens that are read"] = cut
    rows = [_join(parts, tokenizer) for parts in zip(*encoded, strict=True)]
    if not names:
        rows = [([tokenizer.cls_token_id], [0], [0])] * len(dataset.items)
    tokens, types, positions = (
        _pad([row[k] for row in rows], tokenizer.pad_token_id if k == 0 else 0)
        for k in range(3)
    )
    images, has_image = decode_images(dataset, config.image_size)
    query_tokens, query_length = encode_queries(
        tokenizer, dataset.queries, query_limit(config)
    )
    return Features(
        tokens=torch.from_numpy(tokens),
        types=torch.from_numpy(types.astype(np.uint8)),
        positions=torch.from_numpy(positions.astype(np.int16)),
        length=torch.tensor([len(row[0]) for row in rows]),
        images=images,
        has_image=has_image,
        query_tokens=query_tokens,
        query_length=query_length,
    )


def order_fields(dataset: Dataset, config: Config) -> list[str]:
    """The text fields: those the configuration knows first, then the others."""
    return in_order(dataset.texts, config)


def in_order(fields: Iterable[str], config: Config) -> list[str]:
    """As `order_fields`, of their names."""
    known = [name for name, _ in config.field_tokens if name in fields]
    return known + [name for name in fields if name not in known]


def field_limit(config: Config, name: str) -> int:
    """Tokens of a field that are read. # our choice: on two real search logs 64 instead
    of 16 of the contents gained nothing in one short pass."""
    return dict(config.field_tokens).get(name, config.other_field_tokens)


def query_limit(config: Config) -> int:
    """Tokens of a query that are read, cls not counted: training, serving, export."""
    return dict(config.field_tokens)["query"]


def encode_queries(tokenizer, texts: list[str], limit: int) -> tuple[Tensor, Tensor]:
    """Tokens (Q, 1 + limit or less) with cls in front, and lengths (Q,)."""
    encoded, _ = _encode(tokenizer, texts, limit)
    ids = [[tokenizer.cls_token_id, *ids] for ids in encoded]
    tokens = torch.from_numpy(_pad(ids, tokenizer.pad_token_id))
    return tokens, torch.tensor([len(row) for row in ids])


def _encode(
    tokenizer, texts: list[str | None], limit: int
) -> tuple[list[list[int]], int]:
    """The first tokens of every text, and how many texts have more."""
    # 100 kB titles cost nothing; white space is no token and must not use up the room
    whole = [" ".join((text or "").split()) for text in texts]
    texts = [text[: 20 * limit] for text in whole]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    cut = sum(
        len(ids) > limit or len(text) > 20 * limit
        for ids, text in zip(encoded, whole, strict=True)
    )
    return [ids[:limit] for ids in encoded], cut


def _join(parts: tuple[list[int], ...], tokenizer) -> tuple[list[int], ...]:
    """Tokens, types and positions of one document; an empty field leaves no trace."""
    tokens, types, positions = [tokenizer.cls_token_id], [0], [0]
    for kind, ids in enumerate(parts, start=1):
        if ids and len(tokens) > 1:
            tokens.append(tokenizer.sep_token_id)
            types.append(types[-1])
            positions.append(positions[-1] + 1)
        tokens += ids
        types += [kind] * len(ids)
        positions += range(len(ids))
    return tokens, types, positions


def _pad(rows: list[list[int]], value: int = 0) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows))), value, dtype=np.int32)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out


def decode_images(dataset: Dataset, size: int) -> tuple[Tensor, Tensor]:
    """The catalogue's pictures (N, 3, size, size) uint8, and which there are (N,)."""
    images = torch.zeros(len(dataset.images), 3, size, size, dtype=torch.uint8)
    has_image = torch.zeros(len(dataset.images), dtype=torch.bool)
    dataset.counts["image cannot be decoded"] = 0
    for row, image in enumerate(dataset.images):
        if image is None:
            continue
        try:
            images[row] = decode(image, size, dataset.folder)
            has_image[row] = True
        except UNREADABLE as error:
            dataset.counts["image cannot be decoded"] += 1
            if dataset.counts["image cannot be decoded"] == 1:
                reason = str(error).split(" <_io")[0]  # no addresses in memory
                print(
                    f"{ITEMS}, column image, row {row}: cannot be decoded ({reason}); "
                    "such documents go on without an image"
                )
    return images, has_image
