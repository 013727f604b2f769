"""Query and document encoders: raw text and pixels to representations."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as backbones
from transformers import AutoModel, BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from lemur_mini.config import Config
from lemur_mini.data.features import Features, load_pretrained


def make_bert(config: Config, vocabulary: int, types: int, layers: int) -> nn.Module:
    """A bidirectional Transformer of `transformers`, from a configuration alone, or a
    pretrained one by name."""
    if config.pretrained:
        bert = load_pretrained(AutoModel, config.pretrained)
        kinds = nn.Embedding(types, bert.config.hidden_size)  # its own are too few
        bert.embeddings.token_type_embeddings = make_small(kinds)
        return bert
    positions = max([limit for _, limit in config.field_tokens] + [config.patches])
    settings = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        num_hidden_layers=layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward * config.hidden,
        max_position_embeddings=max(positions, config.other_field_tokens) + 2,
        type_vocab_size=types,
        # BERT's 0.02 suits 768 wide: at 64 it makes what cls hears of the words so
        # faint that hundreds of steps pass before anything is learnt.
        initializer_range=config.hidden**-0.5,
        hidden_dropout_prob=0.0,  # one pass: every sample is seen once
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(settings, add_pooling_layer=False)
    parts = bert.embeddings
    for table in (
        parts.word_embeddings,
        parts.position_embeddings,
        parts.token_type_embeddings,
    ):  # small: words then move fast, and place and type do not drown them
        make_small(table)
    last = ClsLayer(settings, layer_idx=layers - 1)
    last.load_state_dict(bert.encoder.layer[-1].state_dict())
    bert.encoder.layer[-1] = last
    return bert


class ClsLayer(BertLayer):
    """BERT's last layer for cls alone: nobody reads what it says of other tokens, and
    with two layers a third of the encoder's work goes there. (B, L, H) -> (B, 1, H)."""

    def forward(self, hidden_states: Tensor, attention_mask=None, *_, **__) -> Tensor:
        part = self.attention.self
        cls = hidden_states[:, :1]
        q, k, v = (
            layer(x).unflatten(-1, (part.num_attention_heads, -1)).transpose(1, 2)
            for layer, x in (
                (part.query, cls),
                (part.key, hidden_states),
                (part.value, hidden_states),
            )
        )  # (B, heads, 1 or L, H / heads)
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.attention.output(mixed.transpose(1, 2).flatten(2), cls)
        return self.feed_forward_chunk(out)


def for_attention(mask: Tensor) -> Tensor:
    """A mask (B, L), True where there is a token, in attention's shape (B, 1, 1, L).

    A mask of shape (B, L) would make `transformers` ask whether it is all True, and
    the host wait for the device."""
    return mask[:, None, None]


def make_small(table: nn.Embedding) -> nn.Embedding:
    """Draw an embedding's rows anew, at scale 0.02."""
    nn.init.normal_(table.weight, std=0.02)
    return table


class RunningNorm(nn.Module):
    """Centres and scales representations (B, D) by running statistics.

    # our choice: a fresh Transformer's outputs share one large common part, so that
    all cosines are alike and the contrast first shrinks what tells documents apart.
    `update`, after the optimiser's step, takes in what the last forward pass saw: a
    step never depends on the statistics of its own batch."""

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, width: int, momentum: float = 0.05):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.requires_grad:  # frozen encoders keep theirs
            self.seen = x.detach().float()
        return (x - self.mean) * torch.rsqrt(self.variance + 1e-4)

    @torch.no_grad()
    def update(self) -> None:
        """Move the statistics towards those last seen, quickly at first."""
        x, self.seen = self.seen, None
        if x is None or len(x) < 2:
            return
        self.updates += 1
        weight = torch.clamp(1 / self.updates, min=self.momentum)
        self.mean.lerp_(x.mean(0), weight)
        self.variance.lerp_(x.var(0, correction=0), weight)


class QueryEncoder(nn.Module):
    """q_i = Transformer_q(q_raw) (paper, section 2): the output at cls, projected.

    tokens: (B, Lq), length: (B,). Returns (B, D)."""

    def __init__(self, config: Config, vocabulary: int):
        super().__init__()
        self.bert = make_bert(config, vocabulary, 2, config.query_layers)
        self.norm = nn.LayerNorm(self.bert.config.hidden_size)
        self.project = nn.Linear(self.bert.config.hidden_size, config.width)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        mask = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        words = self.norm(self.bert.get_input_embeddings()(tokens.long()))
        out = self.bert(inputs_embeds=words, attention_mask=for_attention(mask))
        return self.project(out.last_hidden_state[:, 0])


class ImageStem(nn.Module):
    """Pixels (B, 3, H, W) in [0, 255] to patch tokens (B, patches, hidden)."""

    def __init__(self, config: Config, hidden: int):
        super().__init__()
        if config.image_stem == "patches":
            # one linear map a patch keeps raw colour; a second layer finds texture
            half = config.patch // 2
            self.net = nn.Sequential(
                nn.Conv2d(3, hidden, half, half),
                nn.GELU(),
                nn.Conv2d(hidden, hidden, 2, 2),
            )
        else:
            # a norm per image: one document's cover must not reach into another's
            backbone = backbones.get_model(
                config.image_stem, weights=None, norm_layer=partial(nn.GroupNorm, 1)
            )
            self.net = nn.Sequential(*list(backbone.children())[:-2])
            with torch.no_grad():
                channels = self.net.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
            self.net.append(nn.Conv2d(channels, hidden, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels.float() / 127.5 - 1).flatten(2).mT


class DocumentEncoder(nn.Module):
    """d_i = Transformer_d(d_raw) (paper, section 2): text fields and the cover's patch
    tokens in one Transformer, the output at cls projected.

    Types: 0 cls, 1.. the text fields, the last one the image. `encode(rows)` of a
    batch of catalogue rows (B,) returns (B, D)."""

    def __init__(self, config: Config, vocabulary: int, fields: int):
        super().__init__()
        self.bert = make_bert(config, vocabulary, fields + 2, config.document_layers)
        hidden = self.bert.config.hidden_size
        self.image_type, self.modalities = fields + 1, config.modalities
        self.stem = ImageStem(config, hidden)
        # Both kinds of token are normalised before they meet: else text of a larger
        # scale drowns the patches, and colour is never learnt.
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.project = nn.Linear(hidden, config.width)

    def forward(self, features: Features, rows: Tensor, longest: int) -> Tensor:
        """rows: (B,) catalogue rows, none with more than `longest` text tokens."""
        if "text" not in self.modalities:
            longest = 1  # cls alone
        tokens = features.tokens[rows, :longest].long()
        words = self.bert.get_input_embeddings()(tokens)  # (B, L, hidden)
        patches = self.stem(features.images[rows])  # (B, patches, hidden)
        count = patches.shape[1]
        place = torch.arange(longest, device=rows.device)
        text_mask = place < features.length[rows, None]
        shown = features.has_image[rows] & ("image" in self.modalities)
        image_mask = shown[:, None].expand(-1, count)
        order = torch.arange(count, device=rows.device).expand(len(rows), -1)
        out = self.bert(
            inputs_embeds=torch.cat(
                [self.norms[0](words), self.norms[1](patches)], dim=1
            ),
            token_type_ids=torch.cat(
                [
                    features.types[rows, :longest].long(),
                    torch.full_like(order, self.image_type),
                ],
                dim=1,
            ),
            position_ids=torch.cat(
                [features.positions[rows, :longest].long(), order], dim=1
            ),
            attention_mask=for_attention(torch.cat([text_mask, image_mask], dim=1)),
        )
        return self.project(out.last_hidden_state[:, 0])
