"""From messages, paths and blobs to words and pictures without a person in them."""

from __future__ import annotations

import codecs
import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b

from PIL import Image

from lemur_mini.data.importers.git_commits import Commit

WORD = re.compile(r"[^\W_]+")
LONGEST = 600  # characters of content
PAGES = (2**12, 2**16)  # bytes that these are looked for in
SIDE = 96  # pixels of a picture's longer side; the models see fewer
GROUND = (128, 128, 128)  # neither light nor dark pictures vanish on it
MOST_PIXELS = 2**25
PICTURES = (b".png", b".jpg", b".jpeg", b".gif", b".webp", b".bmp")
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

TRAILER = re.compile(
    r"^\s*([\w-]+-by|cc|author|change-id|git-svn-id|signed-off|co-authored)\s*:", re.I
)
INLINE = re.compile(r"\s*\b[\w-]+-by:.*$", re.I)  # a trailer on the subject's line
WHO = re.compile(r"^[ \t]*[\w-]+:([^<>\n]{1,99})<([^<>\s]+@[^<>\s]+)>", re.M)
ADDRESS = re.compile(r"""<?[^\s<>()\[\]{},;:"']+@[^\s<>()\[\]{},;:"']+>?""")
MAIL = re.compile(r"^[^@]+@(?:[\w-]+\.)+[^\W\d_]{2,}\W*$")
HANDLE = re.compile(r"(?<![\w@])@([\w.-]*\w)")
BRACKETS = re.compile(r"[\[(]([^\[\]()]*)[\])]")
EMPTY = re.compile(
    r"[\[({<](?:[^\w\])}>]|\band\b)*\0(?:[^\w\])}>]|\band\b)*[\])}>]", re.I
)
CREDIT = re.compile(r"(?:\b(?:thanks to|thanks|patch by|by|via|cc)\b\W*)?@?\0", re.I)
PAIR = re.compile(r"\s+(?:and|with)\s+|\s*[&+,/]\s*", re.I)
COMMON = {"admin", "code", "contact", "dev", "doc", "docs", "email", "git", "github"}
COMMON |= {"hello", "info", "mail", "noreply", "root", "svn", "test", "tests", "ci"}

BOT = re.compile(
    r"\[bot\]$|\bbot$|(?-i:[a-z]Bot(App)?$)|^(dependabot|renovate|greenkeeper"
    r"|github[- ]actions?|pre-commit-ci|weblate|semantic-release|travis ci|snyk|imgbot"
    r"|mergify)\b",
    re.I,
)
BOT_SAYS = re.compile(
    r"^(build|chore|fix)\(deps(-dev)?\)|^Bump \S+ from \S+ to \S+|^Update dependency "
    r"|^\[pre-commit\.ci\]|^Translated using Weblate|^(Merge|Apply) automatic",
    re.I,
)
REVERT = re.compile(r"^\W*revert(s|ed|ing)?\b", re.I)
MERGE = re.compile(r"^Merge (branch|pull request|remote|tag|commit|changes|PR)\b", re.I)


def kind(commit: Commit) -> str:
    """Why a commit cannot be a query: merge, bot or revert; empty where it may be."""
    text = subject(commit.message)
    if commit.parents > 1 or MERGE.match(text):
        return "merge"
    if BOT.search(commit.author.strip()) or BOT_SAYS.match(text):
        return "bot"
    if REVERT.match(text) or "This reverts commit" in commit.message:
        return "revert"
    return ""


def subject(message: str) -> str:
    """The first paragraph on one line, as git has it, without its trailers."""
    first = re.split(r"\n\s*\n", message.strip(), maxsplit=1)[0]
    lines = (line for line in first.split("\n") if not TRAILER.match(line))
    return INLINE.sub("", " ".join(" ".join(lines).split()))


def pseudonym(author: str, salt: str) -> int:
    """48 bits in the place of a name, another in every repository."""
    name = " ".join(author.split()).encode()
    return int.from_bytes(blake2b(name, digest_size=6, key=salt[:64].encode()).digest())


class People:
    """Everybody a history names, so that texts can be rid of them.

    A name of two words or more goes wherever it stands, whatever its case; a name of
    one word, and the part of an address before @, only after @ or alone in brackets,
    for such words mean other things too."""

    def __init__(self, commits: Iterable[Commit] = ()):
        self.names: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
        self.handles: set[str] = set()
        self.mails: set[str] = set()
        for person in {
            p for c in commits for p in (*c.people, *WHO.findall(c.message))
        }:
            self.add(*person)

    def add(self, name: str, mail: str) -> None:
        """Know a name, which may be that of a pair, and an address."""
        self.mails.add(mail.casefold())
        handles = {name.strip(), *mail.partition("@")[0].split("+")}
        for part in (name, *PAIR.split(name)):
            words = tuple(WORD.findall(part.casefold()))
            if len(words) > 1:
                self.names[words[0]].add(words)
            handles.add(part.strip())
        handles = {h.casefold() for h in handles if " " not in h and len(h) > 2}
        self.handles |= {h for h in handles - COMMON if not h.isdigit()}

    def without(self, text: str) -> str:
        """The text without addresses, names and handles; brackets and words of
        thanks that hold nothing else go as well."""
        text = ADDRESS.sub(self._address, text.replace("\0", " "))
        text = self._without_names(text)
        text = HANDLE.sub(lambda m: self._handle(m[1], m[0]), text)
        text = BRACKETS.sub(self._brackets, text)
        if "\0" in text:
            text = EMPTY.sub(" ", CREDIT.sub("\0", text)).replace("\0", " ")
        return " ".join(text.split())

    def words(self, text: str) -> list[str]:
        """The words that are left of a text."""
        return WORD.findall(self.without(text))

    def _address(self, found: re.Match) -> str:
        bare = found[0].strip("<>")
        known = bare.strip(".").casefold() in self.mails or MAIL.match(bare)
        return "\0" if known or found[0][0] == "<" else found[0]

    def _without_names(self, text: str) -> str:
        words = [word.casefold() for word in WORD.findall(text)]
        named = self._named(words)
        if not named:
            return text
        out, end, spans = [], 0, [m.span() for m in WORD.finditer(text)]
        for begin, stop in named:
            out += [text[end : spans[begin][0]], "\0"]
            end = spans[stop - 1][1]
        return "".join([*out, text[end:]])

    def _named(self, words: list[str]) -> list[tuple[int, int]]:
        """Where names stand among these words; the longest wins."""
        found, end = [], 0
        for row, word in enumerate(words):
            if row >= end and word in self.names:
                ends = (row + len(n) for n in self.names[word] if _at(n, words, row))
                if end := max(ends, default=0):
                    found.append((row, end))
        return found

    def _handle(self, name: str, whole: str) -> str:
        return "\0" if name.casefold() in self.handles else whole

    def _brackets(self, found: re.Match) -> str:
        inside = re.split(r"[\s,&+/@\0]+|\band\b", found[1].casefold())
        inside = [word for word in inside if word]
        alone = inside and all(word in self.handles for word in inside)
        return "\0" if alone else found[0]


def _at(name: tuple[str, ...], words: list[str], row: int) -> bool:
    return tuple(words[row : row + len(name)]) == name


def path_words(path: bytes, people: People) -> tuple[str, str]:
    """Words of the file's name, and of the folders that it lies in."""
    folder, _, name = _text(path).rpartition("/")
    return " ".join(people.words(name)), " ".join(people.words(folder))


def content(blob: bytes, people: People) -> str | None:
    """The first LONGEST characters of words; None where the file is no text."""
    if blob.startswith(b"version https://git-lfs."):
        return None
    wide = blob[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if not wide and b"\0" in blob[: PAGES[-1]]:
        return None
    for size in PAGES:
        page = blob[:size]
        text = page.decode("utf-16", "ignore") if wide else _text(page)
        found = " ".join(people.words(text))
        if len(found) > 2 * LONGEST:  # what the page's end cuts is far away
            break
    return found[:LONGEST].rstrip()


def picture(blob: bytes) -> bytes | None:
    """A PNG of at most SIDE pixels on a plain ground; None for what is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = Image.open(io.BytesIO(blob))
            if image.width * image.height > MOST_PIXELS:
                return None
            image = image.convert("RGBA")
    except (*UNREADABLE, Warning):
        return None
    image.thumbnail((SIDE, SIDE))
    ground = Image.new("RGBA", image.size, (*GROUND, 255))
    out = io.BytesIO()
    Image.alpha_composite(ground, image).convert("RGB").save(out, "PNG")
    return out.getvalue()


def is_picture(path: bytes) -> bool:
    """Whether the file's name says that it is a picture."""
    return path.lower().endswith(PICTURES)


def _text(raw: bytes) -> str:
    """UTF-8, whose last character may be cut, else Latin-1."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
    except UnicodeDecodeError:
        return raw.decode("latin-1")
