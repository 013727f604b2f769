"""Encoded pictures to pixels: what a viewer shows is what the model gets."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # not EPS: Pillow runs a program on it
MOST_PIXELS = 50_000_000  # a larger picture is refused before it is decoded
# what Pillow raises for bytes that are no picture, or that lie about being one
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
UNREADABLE += (struct.error, zlib.error, LookupError, TypeError, ArithmeticError)


def read_picture(image: bytes | str, folder: Path | None = None) -> bytes:
    """The encoded bytes: as they are, or of the file at this path in the folder."""
    if not isinstance(image, str):
        return image
    path = (folder or Path()) / image
    if not path.is_file():  # reading a device or a pipe might never end
        raise FileNotFoundError(f"{image!r} is no file")
    return path.read_bytes()


def decode(image: bytes | str, size: int, folder: Path | None = None) -> Tensor:
    """Encoded bytes, or the path of a file, to pixels (3, size, size), uint8.

    Turned as its EXIF says, 16 bits scaled to 8, of an animation the first frame, CMYK
    and palettes as RGB. # our choice: what is transparent lies on white, as on a page;
    colour profiles are not applied. Raises what `UNREADABLE` lists."""
    picture = Image.open(io.BytesIO(read_picture(image, folder)), formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
    picture.draft("RGB", (size, size))  # JPEG: decode no more than is needed
    picture.load()
    pixels = vision.pil_to_tensor(_on_white(_eight_bits(_upright(picture))))
    return vision.resize(pixels, [size, size], antialias=True)


def _upright(picture: Image.Image) -> Image.Image:
    with suppress(Exception):  # a broken EXIF turns nothing, in viewers neither
        return ImageOps.exif_transpose(picture)
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16 bits of grey to 8: Pillow's own `convert` makes all above 255 white."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64).clip(0, 65_535)
    grey = np.rint(values / 257).astype(np.uint8)
    if (clear := picture.info.get("transparency")) is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")
