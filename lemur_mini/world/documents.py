"""Documents of the platform: hidden factors, readable text, rendered covers."""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lemur_mini.world.config import WorldConfig
from lemur_mini.world.vocabulary import ASR, OCR, PALETTES, TITLES, TONES, themes

PATTERNS = ("plain", "stripes", "dots", "checks")
LAYOUTS = ("circle", "square", "triangle", "bar")
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Documents:
    """Hidden factors of N documents, all arrays of length N, ordered by birth."""

    topic: np.ndarray
    category: np.ndarray
    tone: np.ndarray
    palette: np.ndarray
    pattern: np.ndarray
    layout: np.ndarray
    quality: np.ndarray  # standard normal, visible in nothing
    born: np.ndarray  # days since the start
    popularity: np.ndarray  # weight of being shown


def draw_documents(config: WorldConfig, rng: np.random.Generator) -> Documents:
    """Draw the hidden factors of every document."""
    n, topics = config.documents, themes()[1]
    born = rng.uniform(0, config.days, n) * (rng.random(n) >= config.born_at_start)
    topic = rng.integers(len(topics), size=n)
    return Documents(
        topic=topic,
        category=np.array([t.category for t in topics])[topic],
        tone=rng.integers(len(TONES), size=n),
        palette=rng.integers(len(PALETTES), size=n),
        pattern=rng.integers(len(PATTERNS), size=n),
        layout=rng.integers(len(LAYOUTS), size=n),
        quality=rng.standard_normal(n),
        born=np.sort(born),
        popularity=rng.lognormal(0.0, config.popularity_sigma, n),
    )


def write_text(documents: Documents, i: int, rng: np.random.Generator) -> dict:
    """Title, OCR, ASR and cover OCR of document i: short sentences from its words."""
    categories, topics = themes()
    words = topics[documents.topic[i]].document
    general = categories[documents.category[i]].document
    tones = list(TONES.values())[documents.tone[i]]

    def fill(templates: tuple[str, ...]) -> str:
        a, b, c = rng.choice(words, 3, replace=False)
        slots = {"a": a, "b": b, "c": c, "g": rng.choice(general)}
        tone, tune = rng.choice(tones, 2, replace=False)
        slots |= {"tone": tone, "tune": tune, "n": rng.integers(1, 10)}
        return str(rng.choice(templates)).format(**slots)

    title, ocr = fill(TITLES), fill(OCR)
    return {
        "title": title[0].upper() + title[1:],
        "ocr": ocr + " " + fill(OCR) if rng.random() < 0.1 else ocr,
        "asr": fill(ASR) if rng.random() < 0.5 else None,
        "cover_ocr": " ".join(rng.choice(words, rng.integers(1, 3), replace=False)),
    }


def draw_cover(
    documents: Documents, i: int, text: str, size: int, rng: np.random.Generator
) -> bytes:
    """Cover of document i as JPEG bytes: the palette colours the background, a neutral
    shape and the cover text stand on it, so the mean colour tells the palette."""
    hue = list(PALETTES.values())[documents.palette[i]] + rng.normal(0, 8)
    light, dark = (_rgb(hue, value) for value in (rng.uniform(0.75, 0.95), 0.55))
    image = Image.new("RGB", (size, size), light)
    draw = ImageDraw.Draw(image)
    _pattern(draw, PATTERNS[documents.pattern[i]], size, dark)
    x, y = rng.uniform(0.15, 0.45, 2) * size
    _shape(draw, LAYOUTS[documents.layout[i]], x, y, 0.4 * size)
    for line, word in enumerate(text.upper().split()):
        font = ImageFont.load_default(size * min(0.17, 1.3 / len(word)))
        position = (0.05 * size, (0.04 + 0.76 * line) * size)
        draw.text(position, word, "white", font, stroke_width=1, stroke_fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72)
    return buffer.getvalue()


def _rgb(hue: float, value: float) -> tuple[int, ...]:
    colour = colorsys.hsv_to_rgb((hue % 360) / 360, 0.75, value)
    return tuple(round(255 * channel) for channel in colour)


def _pattern(draw: ImageDraw.ImageDraw, name: str, size: int, colour: tuple) -> None:
    step = size // 8
    for k in range(0, size, 2 * step):
        if name == "stripes":
            draw.rectangle((0, k, size, k + step - 1), colour)
        for m in range(0, size, 2 * step):
            box = (m, k, m + step, k + step)
            if name == "dots":
                draw.ellipse(box, colour)
            elif name == "checks":
                draw.rectangle(box, colour)


def _shape(draw: ImageDraw.ImageDraw, name: str, x: float, y: float, s: float) -> None:
    box = (x, y, x + s, y + s)
    if name == "circle":
        draw.ellipse(box, GREY)
    elif name == "square":
        draw.rectangle(box, GREY)
    elif name == "triangle":
        draw.polygon(((x, y + s), (x + s, y + s), (x + s / 2, y)), GREY)
    else:
        draw.rectangle((x, y + s / 3, x + s, y + 2 * s / 3), GREY)
