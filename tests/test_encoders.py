"""Both encoders against a plain BERT of `transformers` that is fed by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from lemur_mini.data.features import make_features, make_tokenizer
from lemur_mini.encoders import DocumentEncoder, ImageStem, QueryEncoder

ROWS = torch.tensor([3, 0, 7, 11])


def document_encoder(prepared, config) -> DocumentEncoder:
    torch.manual_seed(0)
    sizes = prepared.sizes
    return DocumentEncoder(config, sizes.vocabulary, sizes.fields).eval()


def query_encoder(prepared, config) -> QueryEncoder:
    torch.manual_seed(0)
    return QueryEncoder(config, prepared.sizes.vocabulary).eval()


@torch.no_grad()
def encode(encoder: DocumentEncoder, features, rows=ROWS, padding: int = 0) -> Tensor:
    longest = int(features.length[rows].max()) + padding
    return encoder(features, torch.as_tensor(rows), longest)


def plain(bert: BertModel) -> BertModel:
    """A BERT made by `transformers` alone, with the same weights."""
    copy = BertModel(bert.config, add_pooling_layer=False).eval()
    copy.load_state_dict(bert.state_dict())
    return copy


def normalised(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / scale * norm.weight + norm.bias


def document_tokens(prepared, config, row: int, without: str = "") -> list[list[int]]:
    """Tokens, types and positions: cls, then the fields with sep between them."""
    tokenizer, texts = prepared.tokenizer, prepared.dataset.texts
    tokens, types, positions = [tokenizer.cls_token_id], [0], [0]
    for kind, (name, limit) in enumerate(config.field_tokens[1:], start=1):
        text = "" if name == without else texts[name][row] or ""
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:limit]
        if ids and len(tokens) > 1:
            tokens.append(tokenizer.sep_token_id)
            types.append(types[-1])
            positions.append(positions[-1] + 1)
        tokens += ids
        types += [kind] * len(ids)
        positions += range(len(ids))
    return [tokens, types, positions]


@torch.no_grad()
def encode_by_hand(encoder, features, row: int, parts, image: bool = True) -> Tensor:
    """One document, no padding and no mask: words and patches in a plain BERT."""
    tokens, types, positions = parts
    bert = plain(encoder.bert)
    words = torch.stack([bert.embeddings.word_embeddings.weight[t] for t in tokens])
    inputs = normalised(words, encoder.norms[0])
    if image:
        patches = encoder.stem(features.images[row : row + 1])[0]
        inputs = torch.cat([inputs, normalised(patches, encoder.norms[1])])
        types = types + [encoder.image_type] * len(patches)
        positions = positions + list(range(len(patches)))
    out = bert(
        inputs_embeds=inputs[None],
        token_type_ids=torch.tensor([types]),
        position_ids=torch.tensor([positions]),
    )
    return encoder.project(out.last_hidden_state[0, 0])


# --- queries -------------------------------------------------------------------------


@torch.no_grad()
def test_query_encoder_is_a_plain_bert_on_cls_and_words(prepared, config):
    encoder, tokenizer = query_encoder(prepared, config), prepared.tokenizer
    rows = torch.tensor([0, 5, 9])
    features, bert = prepared.features, plain(encoder.bert)
    got = encoder(features.query_tokens[rows], features.query_length[rows])
    for row, vector in zip(rows.tolist(), got, strict=True):
        text = prepared.dataset.queries[row]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:10]
        ids = [tokenizer.cls_token_id, *ids]
        words = normalised(bert.embeddings.word_embeddings.weight[ids], encoder.norm)
        out = bert(inputs_embeds=words[None]).last_hidden_state[0, 0]
        torch.testing.assert_close(vector, encoder.project(out))


@torch.no_grad()
def test_query_padding_and_other_queries_change_nothing(prepared, config):
    encoder, features = query_encoder(prepared, config), prepared.features
    tokens, length = features.query_tokens[:6], features.query_length[:6]
    together = encoder(tokens, length)
    noise = torch.full((6, 1), 17, dtype=tokens.dtype)
    place = torch.arange(tokens.shape[1] + 1) < length[:, None]
    noisy = torch.where(place, torch.cat([tokens, noise], dim=1), noise)
    torch.testing.assert_close(encoder(noisy, length), together)
    for i in range(6):
        alone = encoder(tokens[i : i + 1, : length[i]], length[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])


@torch.no_grad()
def test_the_words_of_a_query_and_their_order_matter(prepared, config):
    encoder = query_encoder(prepared, config)
    tokens = torch.tensor([[2, 50, 60], [2, 60, 50], [2, 50, 61]])
    a, b, c = encoder(tokens, torch.tensor([3, 3, 3]))
    assert not torch.allclose(a, b, atol=1e-3) and not torch.allclose(a, c, atol=1e-3)


# --- documents -----------------------------------------------------------------------


def test_document_encoder_is_a_plain_bert_on_words_and_patches(prepared, config):
    encoder = document_encoder(prepared, config)
    got, types = encode(encoder, prepared.features), set()
    for row, vector in zip(ROWS.tolist(), got, strict=True):
        parts = document_tokens(prepared, config, row)
        wanted = encode_by_hand(encoder, prepared.features, row, parts)
        torch.testing.assert_close(vector, wanted)
        types |= set(parts[1])
    assert types == set(range(1 + prepared.sizes.fields))  # every field occurs


def test_longer_padding_and_other_documents_change_nothing(prepared, config):
    encoder, features = document_encoder(prepared, config), prepared.features
    room = features.tokens.shape[1] - int(features.length[ROWS].max())
    assert len(set(features.length[ROWS].tolist())) > 1 and room > 0
    together = encode(encoder, features)
    torch.testing.assert_close(encode(encoder, features, padding=room), together)
    for i, row in enumerate(ROWS.tolist()):
        torch.testing.assert_close(encode(encoder, features, [row])[0], together[i])


def test_what_lies_in_the_padding_changes_nothing(prepared, config):
    encoder, features = document_encoder(prepared, config), prepared.features
    place = torch.arange(features.tokens.shape[1]) < features.length[:, None]
    noisy = dataclasses.replace(
        features,
        tokens=torch.where(place, features.tokens, 17),
        types=torch.where(place, features.types, 2),
    )
    got = encode(encoder, noisy, padding=3)
    torch.testing.assert_close(got, encode(encoder, features))


def test_the_image_of_a_document_without_one_is_never_seen(prepared, config):
    encoder, features = document_encoder(prepared, config), prepared.features
    has_image = features.has_image.clone()
    has_image[3] = False
    without = dataclasses.replace(features, has_image=has_image)
    got = encode(encoder, without)
    parts = document_tokens(prepared, config, 3)
    wanted = encode_by_hand(encoder, features, 3, parts, image=False)
    torch.testing.assert_close(got[0], wanted)
    torch.testing.assert_close(got[1:], encode(encoder, features)[1:])
    white = dataclasses.replace(without, images=features.images.clone())
    white.images[3] = 255
    torch.testing.assert_close(encode(encoder, white), got)


@pytest.mark.parametrize("field", ["title", "asr"])
def test_a_missing_field_leaves_no_trace(prepared, config, field):
    dataset = prepared.dataset
    row = next(r for r in ROWS.tolist() if dataset.texts[field][r])
    texts = {name: list(values) for name, values in dataset.texts.items()}
    texts[field][row] = None
    changed = dataclasses.replace(dataset, texts=texts, counts=dataset.counts.copy())
    features = make_features(changed, config, prepared.tokenizer)
    encoder = document_encoder(prepared, config)
    before, after = encode(encoder, prepared.features), encode(encoder, features)
    parts = document_tokens(prepared, config, row, without=field)
    place = ROWS.tolist().index(row)
    wanted = encode_by_hand(encoder, features, row, parts)
    torch.testing.assert_close(after[place], wanted)
    others = torch.arange(len(ROWS)) != place
    torch.testing.assert_close(after[others], before[others])
    assert not torch.allclose(after[place], before[place], atol=1e-3)


def test_a_document_with_neither_text_nor_image_has_a_finite_vector(prepared, config):
    features = dataclasses.replace(
        prepared.features,
        length=torch.ones_like(prepared.features.length),
        has_image=torch.zeros_like(prepared.features.has_image),
    )
    first, *others = encode(document_encoder(prepared, config), features)
    assert first.isfinite().all()
    assert all(torch.allclose(first, other) for other in others)


def test_fields_are_told_apart_by_type(prepared, config):
    """The same words as title and as OCR are not the same document."""
    encoder, features = document_encoder(prepared, config), prepared.features
    moved = dataclasses.replace(features, types=(features.types * 0 + 2))
    assert not torch.allclose(
        encode(encoder, moved), encode(encoder, features), atol=1e-3
    )


@pytest.mark.parametrize("stem", ["patches", "resnet18"])
def test_colour_matters(prepared, config, stem):
    encoder = document_encoder(prepared, config.replace(image_stem=stem))
    features = prepared.features
    red, blue = features.images.clone(), features.images.clone()
    red[3] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    blue[3] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]
    a, b = (
        encode(encoder, dataclasses.replace(features, images=images), [3])
        for images in (red, blue)
    )
    assert (a - b).norm() > 0.01 * a.norm()


@torch.no_grad()
def test_patch_tokens_are_the_squares_of_the_image_row_by_row(config):
    stem, side = ImageStem(config, 16), config.image_size // config.patch
    image = torch.randint(0, 256, (1, 3, config.image_size, config.image_size))
    before = stem(image)
    assert before.shape == (1, side**2, 16)
    for token in range(side**2):
        y, x = (config.patch * place for place in divmod(token, side))
        changed = image.clone()
        changed[:, :, y : y + config.patch, x : x + config.patch] = 0
        moved = (stem(changed) != before).any(dim=-1)[0]
        assert moved.tolist() == [i == token for i in range(side**2)]


def test_every_parameter_of_both_encoders_is_trained(prepared, config):
    documents = document_encoder(prepared, config)
    queries = query_encoder(prepared, config)
    features = prepared.features
    longest = int(features.length[ROWS].max())
    documents(features, ROWS, longest).square().sum().backward()
    queries(features.query_tokens, features.query_length).square().sum().backward()
    for encoder in (documents, queries):
        idle = [name for name, p in encoder.named_parameters() if p.grad is None]
        assert idle == []


# --- a backbone of torchvision, a pretrained Transformer -----------------------------


def test_torchvision_backbone_runs_and_learns(prepared, config):
    encoder = document_encoder(prepared, config.replace(image_stem="resnet18"))
    longest = prepared.features.tokens.shape[1]
    out = encoder.train()(prepared.features, ROWS, longest)
    assert out.shape == (len(ROWS), config.width)
    out.sum().backward()
    assert encoder.stem.net[0].weight.grad.abs().sum() > 0


def test_torchvision_backbone_trains_on_a_single_document(prepared, config):
    """The last chunk of a batch may hold one document."""
    encoder = document_encoder(prepared, config.replace(image_stem="resnet18"))
    assert encode(encoder.train(), prepared.features, ROWS[:1]).isfinite().all()


def test_torchvision_backbone_never_sees_missing_images_in_training(prepared, config):
    encoder = document_encoder(prepared, config.replace(image_stem="resnet18")).train()
    has_image = prepared.features.has_image.clone()
    has_image[3] = False
    black = dataclasses.replace(prepared.features, has_image=has_image)
    white = dataclasses.replace(black, images=black.images.clone())
    white.images[3] = 255
    torch.testing.assert_close(encode(encoder, white), encode(encoder, black))


@pytest.fixture
def pretrained(prepared, tmp_path, monkeypatch) -> BertModel:
    """A tiny model of hub shape in tmp_path: two token types, pooler, tokenizer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = BertConfig(
        vocab_size=prepared.sizes.vocabulary,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    assert settings.type_vocab_size == 2
    torch.manual_seed(5)
    bert = BertModel(settings)
    bert.save_pretrained(tmp_path)
    prepared.tokenizer.save_pretrained(tmp_path)
    return bert


def test_pretrained_folder_gives_weights_and_tokenizer(
    prepared, config, pretrained, tmp_path
):
    config = config.replace(pretrained=str(tmp_path))
    tokenizer = make_tokenizer(prepared.dataset, config)
    assert tokenizer.get_vocab() == prepared.tokenizer.get_vocab()
    words = pretrained.get_input_embeddings().weight
    for encoder in (query_encoder, document_encoder):
        bert = encoder(prepared, config).bert
        assert torch.equal(bert.get_input_embeddings().weight, words)


def test_pretrained_model_encodes_queries_and_documents(
    prepared, config, pretrained, tmp_path
):
    config = config.replace(pretrained=str(tmp_path))
    features = prepared.features
    tokens, length = features.query_tokens[:4], features.query_length[:4]
    queries = query_encoder(prepared, config)(tokens, length)
    documents = encode(document_encoder(prepared, config), features)
    assert queries.shape == documents.shape == (4, config.width)
    assert documents.isfinite().all()


def test_unknown_pretrained_name_says_what_to_do(prepared, config, pretrained):
    config = config.replace(pretrained="nobody/no-such-model")
    wanted = "neither a local folder nor reachable on the hub; go online once, or give"
    with pytest.raises(ConnectionError, match=wanted) as error:
        make_tokenizer(prepared.dataset, config)
    assert "pretrained='nobody/no-such-model'" in str(error.value)
    with pytest.raises(ConnectionError, match=wanted):
        query_encoder(prepared, config)
