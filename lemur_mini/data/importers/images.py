"""Images by address, fetched once: retries, a cache, a progress bar."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tqdm import tqdm

MOST_BYTES = 20 * 2**20  # of one image
AGAIN = (408, 429, 500, 502, 503, 504)  # answers that may change


def fetch_images(
    urls: Iterable[str | None],
    cache: Path,
    tries: int = 3,
    pause: float = 1.0,
    opener: Callable = urlopen,
    workers: int = 8,
) -> list[bytes | None]:
    """The bytes behind every address, None where there is none or it fails for good.

    What `cache` holds is not asked for again. pause: seconds before the second try,
    doubled each time. Failures are counted, and one is shown."""
    urls, problems = list(urls), []
    cache.mkdir(parents=True, exist_ok=True)

    def one(url: str | None) -> bytes | None:
        try:
            return url and _cached(url, cache, tries, pause, opener)
        except (OSError, ValueError, HTTPException) as error:
            problems.append(f"{url}: {type(error).__name__}: {error}")
            return None

    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(one, urls), "images", len(urls), mininterval=1)
        found = list(bar)
    if problems:
        print(
            f"{len(problems)} of {len(urls)} images could not be fetched, such as "
            f"{problems[0]}; run it again to try only these"
        )
    return [image or None for image in found]


def _cached(url: str, cache: Path, tries: int, pause: float, opener) -> bytes:
    path = cache / hashlib.sha256(url.encode()).hexdigest()
    if path.is_file():
        return path.read_bytes()
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("is no web address")
    image = _asked(url, tries, pause, opener)
    part = path.with_suffix(f".{os.getpid()}")  # a cut write leaves no image behind
    part.write_bytes(image)
    part.replace(path)
    return image


def _asked(url: str, tries: int, pause: float, opener) -> bytes:
    for attempt in range(1, tries + 1):
        try:
            with opener(url, timeout=20) as answer:
                image = answer.read(MOST_BYTES + 1)
            if len(image) > MOST_BYTES:
                raise ValueError(f"has more than {MOST_BYTES} bytes")
            return image
        except (OSError, HTTPException) as error:
            final = isinstance(error, HTTPError) and error.code not in AGAIN
            if final or attempt == tries:
                raise
            time.sleep(pause * 2 ** (attempt - 1))
    raise ValueError("tries must be at least 1")
