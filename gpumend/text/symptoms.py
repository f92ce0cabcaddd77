"""Which findings an error text may belong to: the lines under "What you see" of their pages, ranked by what they share with it."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpumend.text.record import Record

LINES = 2000  # of a log that is piped in: its last
LINE = 4000  # characters of one of them
WHOLE = 12  # lines that are taken for one text as well: a message that was broken over them
LEADS = 1.5  # by how much the first has to be ahead of the second
WORTH = 0.25  # what shares less of the best one's score is not told
# What a match needs: as much rarity in common as one word of few pages has, and a good part of either side.
RARE = 3.5
PART = 0.45
ENOUGH = 3  # words that a quoted text has
INSIDE = 3.0  # rarity of a text that is but a part of a quoted one
STRANGE = 2.0  # what a word that no page has weighs in the text
PROSE = 0.35  # what a word beside the quoted text of a line weighs

# What differs from one host and one container to the next
_VARIES = (
    (r"\x1b\[[0-9;]*[a-z]", " "),  # colours
    (r"\bgpu-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\bmig-[0-9a-f-]{20,}", "#"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "#"),
    (r"\b([0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}(\.[0-7])?\b", "#"),  # PCI addresses, times
    (r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{10,}\b|\b0x[0-9a-f]+\b", "#"),  # ids of containers, hashes, addresses
    (r"\d+(\.\d+)+", "#"),  # versions, IP addresses
    (r"(?<=/dev/nvidia)\d+|(?<=nvidia\.com/gpu=)[\w:-]+", "#"),
    (r"\b\w+@sha256:\S+", "#"),
    (r"#(-\d[\w.-]*)", "#"),
)
_WORD = re.compile(r"[a-z0-9_#]+(?:[.\-][a-z0-9_#]+)*")
# They say nothing of what is wrong.
_COMMON = frozenset(
    re.findall(
        r"\S+",
        "a an and are as at be but by can did does during error failed response for from had has have if in into is it its no not of on "
        "or so that the their then there this to unknown was were when where which while will with you your gpumend #",
    )
)


def normal(text: str) -> str:
    """The text in small letters, with `#` for what differs from one host to the next."""
    text = text.lower().replace("’", "'").replace("‘", "'").replace("\\n", " ").replace('\\"', '"')
    for pattern, instead in _VARIES:
        text = re.sub(pattern, instead, text)
    return " ".join(text.split())


def words(text: str) -> frozenset[str]:
    """The words of a normal text; of one with a dot or a hyphen, its parts as well."""
    found = set()
    for word in _WORD.findall(text):
        found.add(word)
        found.update(re.split(r"[.\-]", word))
    return frozenset(word for word in found - _COMMON if len(word) > 1)


class Symptom(Record):
    """A text that a line of a page quotes, or all that it quotes, or a line that quotes nothing. pieces: what stands between
    its dots, normal; words: those of them; prose: the line's other words; whole: all of it, normal."""

    line: str
    pieces: tuple[str, ...]
    words: frozenset[str]
    prose: frozenset[str]
    whole: str


class Page(Record):
    code: str
    title: str
    text: str
    symptoms: tuple[Symptom, ...]


class Match(Record):
    page: Page
    line: str
    score: float


def symptoms(line: str) -> Iterator[Symptom]:
    """Each of several texts that a line quotes is enough, unless it is but a word or two: those count together only."""
    quoted = [
        tuple(piece for part in re.split(r"\.\.\.|…", text) if (piece := part.strip(" :,")))
        for text in map(normal, re.findall(r"``? ?(.+?) ?``?(?=\W|$)", line))
    ]
    whole = normal(line.replace("`", ""))
    prose = words(normal(re.sub(r"`[^`]*`", " ", line)))
    together = tuple(piece for pieces in quoted for piece in pieces)
    if not words(" ".join(together)):
        yield Symptom(line, (), prose, frozenset(), whole)
        return
    for pieces in dict.fromkeys((*quoted, together)):
        found = words(" ".join(pieces))
        if pieces == together or len(found) >= ENOUGH:
            yield Symptom(line, pieces, found, prose - found, whole)


def page(text: str) -> Page:
    """A page of docs/findings."""
    title = text.partition("\n")[0].removeprefix("# ")
    seen = text.partition("## What you see\n")[2].partition("\n## ")[0]
    lines = [" ".join(item.split()) for item in re.split(r"(?m)^- ", seen) if item.strip()]
    return Page(
        title.partition(":")[0], title, text, tuple(item for line in lines for item in symptoms(line))
    )


def read(directory: Path) -> list[Page]:
    return [page(path.read_text("utf-8")) for path in sorted(directory.glob("GM*.md"))]


class Index:
    """The pages, and how rare each word is among them."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = pages
        counts: Counter[str] = Counter()
        for each in pages:
            counts.update(frozenset().union(*(item.words | item.prose for item in each.symptoms)))
        self.rarity = {word: math.log(1 + len(pages) / count) for word, count in counts.items()}

    def weight(self, found: Iterable[str]) -> float:
        return sum(self.rarity.get(word, 0.0) for word in found)

    def rank(self, text: str) -> list[Match]:
        """The pages that the text may belong to, the best first; none where it shares too little with each."""
        texts = self._texts(text)
        best: dict[str, Match] = {}
        for each in self.pages:
            for item in each.symptoms:
                score = max((self._score(item, *known) for known in texts), default=0.0)
                if score > (best[each.code].score if each.code in best else 0.0):
                    best[each.code] = Match(each, item.line, score)
        found = sorted(best.values(), key=lambda match: (-match.score, match.page.code))
        return [match for match in found if match.score >= WORTH * found[0].score]

    def near(self, text: str) -> str:
        """The word of the pages that one of the text's, which no page has, is nearly; else nothing."""
        for word in sorted(words(normal(text)) - self.rarity.keys(), key=len, reverse=True):
            close = difflib.get_close_matches(word, self.rarity, n=1, cutoff=0.8) if len(word) > 3 else []
            if close:
                return close[0]
        return ""

    def _texts(self, text: str) -> list[tuple[str, frozenset[str], float]]:
        """Each line that differs from the others, and all together where there are few: normal, its words, their weight."""
        lines = list(dict.fromkeys(normal(line[-LINE:]) for line in text.splitlines()[-LINES:]))
        if 1 < len(lines) <= WHOLE:
            lines.append(" ".join(lines))
        texts = []
        for line in lines:
            every = words(line)
            found = every & self.rarity.keys()
            if found:
                texts.append((line, found, self.weight(found) + STRANGE * len(every - found)))
        return texts

    def _score(self, item: Symptom, text: str, found: frozenset[str], weight: float) -> float:
        """Nothing, or the weight of what both have times the part of the line that this is; more where a literal piece of
        the line stands in the text as it is, or the text in one."""
        shared = found & item.words
        if not shared:
            return 0.0
        common = self.weight(shared)
        exact = sum(self.weight(words(piece)) for piece in item.pieces if " " in piece and piece in text)
        inside = not exact and common >= INSIDE and text in item.whole
        if inside:
            exact = common
        part = 1.0 if inside else common / self.weight(item.words)
        if not exact and (
            len(found & (item.words | item.prose)) < 2
            or common < RARE
            or max(part, 0.8 * common / weight) < PART
        ):
            return 0.0
        beside = self.weight(found & item.prose)
        rest = self.weight(item.prose) - beside
        return (common * part + exact + PROSE * beside) * (1 - min(0.15, 0.005 * rest))
