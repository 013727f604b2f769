"""Images by address, fetched once: retries, a cache, a progress bar."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from tqdm import tqdm

from lemur_mini.data.errors import DataError
from lemur_mini.files import one_line

MOST_BYTES = 20 * 2**20  # of one image
PICTURES = (".jpg", ".jpeg", ".png", ".webp")  # ends of files that are pictures
AGAIN = (408, 429, 500, 502, 503, 504)  # answers that may change


class HostError(OSError):
    """A host that did not answer at all."""


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
    doubled each time. One address of a host goes first: where that host cannot be
    reached, its others are not tried. Failures are counted, and one is shown. Raises
    DataError where the cache cannot be written."""
    urls, problems = list(urls), {}
    dead: dict[str, str] = {}  # host: why
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{cache}: cannot be written ({one_line(error)})"
        raise DataError(f"{problem}; give another cache") from error

    def one(url: str | None) -> bytes | None:
        try:
            return url and _cached(url, cache, tries, pause, opener, dead)
        except (OSError, ValueError, HTTPException) as error:
            problems[url] = f"{url}: {type(error).__name__}: {one_line(error)}"
            return None

    scouts = {_host(url): url for url in reversed(urls) if url}
    first = list(scouts.values())
    order = [*dict.fromkeys([*first, *(url for url in urls if url)])]
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(desc="images", total=len(order), mininterval=1) as bar,
    ):
        found = {}
        for part in (order[: len(first)], order[len(first) :]):
            for url, image in zip(part, pool.map(one, part), strict=True):
                found[url] = image or None
                bar.update()
    failed = sum(url in problems for url in urls)
    for host, why in dead.items():
        print(f"{host} cannot be reached ({why}): its images are left out")
    if failed:
        print(
            f"{failed} of {len(urls)} images could not be fetched, such as "
            f"{next(iter(problems.values()))}; run it again to try only these"
        )
    return [url and found[url] for url in urls]


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _cached(url: str, cache: Path, tries, pause, opener, dead: dict) -> bytes:
    path = cache / hashlib.sha256(url.encode()).hexdigest()
    if path.is_file():
        return path.read_bytes()
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError("is no web address")
    if (host := _host(url)) in dead:
        raise HostError(f"{host} cannot be reached ({dead[host]})")
    try:
        image = _asked(url, tries, pause, opener)
    except (URLError, TimeoutError, ConnectionError) as error:
        if not isinstance(error, HTTPError):  # an answer, if not the one wanted
            dead[host] = one_line(error)
        raise
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
