"""Words of the platform: categories, topics, tones, and the sentences made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TONES = {
    "funny": ["hilarious", "silly", "goofy", "clumsy", "ridiculous", "cheeky"],
    "calm": ["gentle", "quiet", "slow", "peaceful", "soothing", "relaxed"],
    "dramatic": ["shocking", "extreme", "intense", "wild", "explosive", "fierce"],
    "technical": [
        "precise",
        "detailed",
        "measured",
        "systematic",
        "rigorous",
        "analytical",
    ],
    "warm": ["heartfelt", "tender", "nostalgic", "sincere", "touching", "grateful"],
}
PALETTES = {"red": 0, "amber": 38, "green": 125, "blue": 215, "violet": 285}  # hue
FILLERS = ["best", "easy", "new", "good", "top", "beginner"]
TITLES = (
    "Your {tone} {tune} guide to {a}",
    "The {tone} {tune} truth about {a}",
    "One {tone} {tune} day with {a}",
    "Why {a} beats {b} the {tone} {tune} way",
    "My {tone} {tune} {a} story",
    "{a} or {b}: your {tone} {tune} answer",
)
OCR = (
    "Start with {a}, then add {b} and {c}.",
    "First {a}, then {b}, {c} last.",
    "What {a} does to {b} and {c}.",
    "Part {n}: {a}, {b} and the {g}.",
    "Never mix {a} with {b} or {c}.",
    "Save this list: {a}, {b}, {c}.",
)
ASR = (
    "welcome to a {tone} look at {a}",
    "here comes the {tone} part",
    "let us be {tone} about this",
    "hello everyone this one is {tone}",
)


@dataclass(frozen=True)
class Theme:
    """A category or a topic: its name and its two disjoint word lists."""

    name: str
    query: tuple[str, ...]
    document: tuple[str, ...]
    category: int


@cache
def themes() -> tuple[tuple[Theme, ...], tuple[Theme, ...]]:
    """The 8 categories and the 48 topics, read from vocabulary.txt."""
    categories, topics = [], []
    text = (files("lemur_mini.world") / "vocabulary.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, query, document = (part.strip() for part in line.split("|"))
        target = categories if name.startswith("[") else topics
        category = len(categories) - (target is topics)
        words = tuple(query.split()), tuple(document.split())
        target.append(Theme(name.strip("[]"), *words, category))
    return tuple(categories), tuple(topics)
