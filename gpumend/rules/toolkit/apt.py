"""GM210: APT's sources of NVIDIA's repository."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.change import RemoveFiles
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.text.record import Record

CURRENT = "nvidia-container-toolkit.list"  # the name in NVIDIA's install guide since 1.14


class Source(Record):
    """One source of one file. uri: without the last slash; key: what signed-by names, or an empty text."""

    path: str
    uri: str
    suite: str
    key: str


def one_line(path: str, text: str) -> list[Source]:
    """The sources of a .list file (sources.list(5)): `deb [options] uri suite ...`."""
    found = []
    for match in re.finditer(r"(?m)^[ \t]*deb(?:-src)?[ \t]+(?:\[([^\]]*)\][ \t]+)?(\S+)[ \t]+(\S+)", text):
        key = re.search(r"signed-by=(\S+)", match.group(1) or "", re.IGNORECASE)
        found.append(Source(path, match.group(2).rstrip("/"), match.group(3), key.group(1) if key else ""))
    return found


def deb822(path: str, text: str) -> list[Source]:
    """The sources of a .sources file: stanzas of `Field: value`."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = {
            match.group(1).lower(): match.group(2).strip()
            for match in re.finditer(r"(?m)^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza)
        }
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                found.append(Source(path, uri.rstrip("/"), suite, fields.get("signed-by", "")))
    return found


@rule(
    "GM210",
    "each APT source of the toolkit has one key",
    "lnc#194, nct#170; apt: Conflicting values set for option Signed-By",
    applies=has_gpu,
)
def signed_by(context: Context) -> Iterator[Finding]:
    sources = []
    for path, content in context.state.toolkit.sources.need().items():
        text = content.data.decode("utf-8", "replace")
        sources += deb822(path, text) if path.endswith(".sources") else one_line(path, text)
    for uri, suite in sorted({(source.uri, source.suite) for source in sources}):
        same = [source for source in sources if (source.uri, source.suite) == (uri, suite)]
        if len({source.key for source in same}) < 2:
            continue
        paths = list(dict.fromkeys(source.path for source in same))
        kept = next((path for path in paths if path.endswith(f"/{CURRENT}")), None)
        old = [path for path in paths if path != kept]
        # A file is moved away only when all it says is said by the one that stays.
        said = {(source.uri, source.suite) for source in sources if source.path == kept}
        covered = all((s.uri, s.suite) in said for s in sources if s.path in old)
        refused = "" if context.wanted.manage_runtime else "runtime.manage is false"
        if not refused and not (kept and old and covered):
            refused = "which of them is the right one is not clear"
        yield Finding(
            code="GM210",
            status=Status.FAIL,
            summary=f"{uri} is named with different keys: apt-get update fails",
            evidence=tuple(Evidence(source.path, f"signed-by={source.key or 'none'}") for source in same),
            cause="The repository's list file was renamed over the years, and the old one stayed.",
            remedy=f"Mend moves {', '.join(old)} into the run's backup."
            if not refused
            else "Remove all but one of them.",
            change=None if refused else Change(Component.APT, RemoveFiles(tuple(old))),
            refused=refused,
            symptoms=("Conflicting values set for option Signed-By",),
        )
