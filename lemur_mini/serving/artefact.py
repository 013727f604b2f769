"""One artefact: a folder that a ranker is loaded from, without log and pictures.

Everything that is loaded lies in one file, `model.safetensors`, a checkpoint like those
of training: whole or not at all, with a checksum, and no code in it. The other files
say the same to people and to other programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lemur_mini import checkpoints, files
from lemur_mini.checkpoints import CheckpointError
from lemur_mini.data.counts import Counts
from lemur_mini.data.features import SPECIAL
from lemur_mini.data.fingerprint import Fingerprint
from lemur_mini.data.likeness import Likeness
from lemur_mini.data.match import Match
from lemur_mini.remap import fingerprint_of, fingerprint_tensors, pack, unpack
from lemur_mini.serving.events import Histories, UserEvents, merged
from lemur_mini.serving.known import Known
from lemur_mini.serving.numbers import LiveNumbers

MODEL, CONFIG, TOKENIZER, CARD = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "README.md",
)
COLUMNS = ("item", "time", "label", "begin")


class Artefact(
    ModelHubMixin,
    library_name="lemur-mini",
    license="apache-2.0",
    tags=["recommendation", "multimodal", "lemur"],
    paper_url="https://arxiv.org/abs/2511.10962",
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of a ranker, by the mixin
    of huggingface_hub. What was added and watched while it served is saved, too; what
    a Redis store holds stays there."""

    _hub_mixin_config: dict = {}  # the mixin would derive one of the arguments
    figures: dict  # measures, for the card

    def _save_pretrained(self, save_directory: Path) -> None:
        files.require_folder(save_directory)
        with self._writing:
            facts, tensors = facts_of(self), tensors_of(self)
        checkpoints.write(save_directory / MODEL, facts, tensors)
        tokenizer = self.known.tokenizer.backend_tokenizer.to_str()
        files.write_text_atomically(save_directory / TOKENIZER, tokenizer)
        files.write_text_atomically(save_directory / CARD, card(facts, self.figures))
        files.write_json(save_directory / CONFIG, facts["config"])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options):
        """A ranker from a folder, or from the hub by id. options: histories, device,
        and those of huggingface_hub (revision, token, cache_dir, local_files_only).
        Raises CheckpointError where there is none or it is damaged."""
        name = str(pretrained_model_name_or_path)
        if Path(name).is_dir():
            return cls._from_pretrained(model_id=name, **options)
        try:
            return super().from_pretrained(name, **options)
        except CheckpointError:
            raise
        except Exception as error:  # every kind that a hub and a network have
            raise CheckpointError(
                f"{name}: neither a folder nor to be had from the hub "
                f"({files.one_line(error)})"
            ) from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        histories: Histories | None = None,
        device: torch.device | str = "cpu",
        **hub,
    ):
        path = Path(model_id) / MODEL
        if not Path(model_id).is_dir():
            wanted = {k: v for k, v in hub.items() if v is not None}
            path = Path(hf_hub_download(model_id, MODEL, **wanted))
        facts, tensors = checkpoints.read(path)
        if "serving" not in facts:
            raise CheckpointError(
                f"{path}: a checkpoint of training, no artefact; Ranker.load takes it "
                "with its data, and save_pretrained makes one"
            )
        try:
            model = checkpoints.build(path, facts, tensors, device)
            ranker = cls(model, known_of(facts, tensors), histories)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise CheckpointError(
                f"{path}: of another version ({files.one_line(error)}); save it again"
            ) from error
        ranker.figures = facts["serving"]["figures"]
        return ranker


def facts_of(ranker) -> dict:
    """What the header says."""
    known, model = ranker.known, ranker.model
    special = {name: getattr(known.tokenizer, name) for name in SPECIAL}
    serving = {"fields": known.fields, "special": special, "figures": ranker.figures}
    return {
        "config": dataclasses.asdict(model.config),
        "sizes": dataclasses.asdict(model.sizes),
        "data": known.parts.get("data"),
        "parts": known.parts,
        "serving": serving,
        "step": ranker.now() if model.config.has_content else 1,
    } | dict.fromkeys(("seed", "total", "seconds", "log"))


def tensors_of(ranker) -> dict[str, torch.Tensor]:
    """Weights, bank, ids, tokenizer, histories, and what is counted, on the CPU."""
    known, numbers = ranker.known, ranker.numbers
    tensors = {f"model.{k}": v for k, v in ranker.model.state_dict().items()}
    content = np.concatenate(known.content)
    tensors |= fingerprint_tensors(Fingerprint(known.parts, known.names, content))
    past = merged(known, ranker.histories, ranker.model.config)
    arrays = {f"past.{name}": getattr(past, name) for name in COLUMNS}
    arrays["past.end"] = np.array(past.end)
    if numbers.counts is not None:
        arrays |= {f"counts.{k}": v for k, v in numbers.counts.arrays().items()}
    if "match" in numbers.groups:
        arrays |= {f"match.{k}": v for k, v in numbers.matcher.arrays().items()}
    tensors["serve.guests"] = pack(list(known.guests))
    tokenizer = known.tokenizer.backend_tokenizer.to_str()
    tensors["serve.tokenizer"] = pack([tokenizer])
    tensors |= {f"serve.{k}": torch.tensor(v) for k, v in arrays.items()}
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def known_of(facts: dict, tensors: dict[str, torch.Tensor]) -> Known:
    """What a ranker knows, from what was read. Raises KeyError and the like."""
    marks = fingerprint_of(facts, tensors)
    (text,) = unpack(tensors["serve.tokenizer"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), **facts["serving"]["special"]
    )
    columns = [tensors[f"serve.past.{name}"].numpy() for name in COLUMNS]
    past = UserEvents(*columns, tensors["serve.past.end"].item(), whole=False)
    guests = unpack(tensors["serve.guests"])
    places = range(len(marks.names["users"]), len(marks.names["users"]) + len(guests))
    return Known(
        names=marks.names,
        parts=marks.parts,
        content=[marks.content],
        fields=facts["serving"]["fields"],
        tokenizer=tokenizer,
        past=past,
        numbers=_numbers_of(facts, tensors, past.end),
        feed=facts["sizes"]["feed"],
        guests=dict(zip(guests, places, strict=True)),
    )


def _numbers_of(facts: dict, tensors: dict, end: float) -> LiveNumbers:
    groups, counts, matcher = tuple(facts["config"]["groups"]), None, None

    def arrays(kind: str) -> dict[str, np.ndarray]:
        return {k: v.numpy() for k, v in files.under(f"serve.{kind}.", tensors).items()}

    if "statistics" in groups:
        counts = Counts.of_arrays(arrays("counts"))
    if "match" in groups:
        kind = Likeness if facts["sizes"]["feed"] else Match
        matcher = kind.of_arrays(facts["serving"]["fields"], arrays("match"))
    return LiveNumbers(groups, end, None, counts, matcher)


def card(facts: dict, figures: dict) -> str:
    """The model card, README.md."""
    sizes, config = facts["sizes"], facts["config"]
    rows = [f"| {name} | {_shown(value)} |" for name, value in figures.items()]
    table = ["| measure | value |", "|---|---|", *rows] if rows else ["None given."]
    lines = [
        "---\nlibrary_name: lemur-mini\nlicense: apache-2.0",
        "tags:\n- recommendation\n- multimodal\n- lemur\n---\n",
        "# A ranker of lemur_mini\n",
        "LEMUR ([arXiv 2511.10962](https://arxiv.org/abs/2511.10962)): ranks documents "
        "for a user and a query from a memory bank of their vectors.\n",
        "```python\nfrom lemur_mini import Ranker\n\nranker = Ranker.from_pretrained("
        '"FOLDER")\nranker.rank_ids(user, "query", item_ids)\n```\n',
        f"{sizes['users']:,} users, {sizes['documents']:,} documents, "
        f"{sizes['queries']:,} queries; feature groups {', '.join(config['groups'])}; "
        f"scale {config['scale']}; data {facts['data']}.\n",
        "## Figures\n",
        *table,
        "\nIt holds ids of users and what they watched last: treat it as their data.\n",
    ]
    return "\n".join(lines)


def _shown(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
