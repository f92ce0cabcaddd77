"""Who uses `docker run --gpus` without being in any `docker ps`: cron, systemd, scripts, compose files that are down, CI
runners. Only the flag itself and the file's name leave the host."""

from __future__ import annotations

from fnmatch import fnmatchcase

from gpumend.state.reading import Reading, Status
from gpumend.state.request import Glob, Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.record import Record

LARGEST = 1 << 16  # bytes of a file that is searched: what people write by hand is smaller
# A command, over continued lines and outside of comments, that names docker and has --gpus; or the flag in a variable of
# its own. Each line is looked through twice at most: whoever may write such a file can make it as awkward as he likes.
_PART = r"(?:[^\n#\\]|(?<=\S)#|\\[\s\S]){0,2000}?"
# Its value may be a variable's, stand on the next line, or be the next item of a list in a program's text.
_FLAG = r"(--gpus(?:[= ]|[ \t]{0,9}\\\n[ \t]{0,40}|[\"'][ \t]{0,9},[ \t]{0,9})[\"']{0,3}(?:\$\{?\w{1,40}|[\w=,:-]{1,40}))"
SHELL = (
    rf"(?m)(?<!\\\n)^(?={_PART}\bdocker\b){_PART}[\s\"']{_FLAG}"
    rf"|^[ \t]{{0,40}}(?:export[ \t]{{1,9}}|Environment=[\"']?)?\w{{1,40}}=[\"'(]?{_FLAG}"
)
# Paths that may be of scripts: not where programs of packages are.
NAMED = r"(?<![\w/.+])((?!/(?:usr/s?bin|usr/lib|s?bin|lib|lib64|dev|proc|sys|run|etc)/)(?:/[\w.+@-]{1,100}){2,12})"
# docs.docker.com compose-file: `gpus:`, or a reservation of a device with the capability gpu; driver cdi is another way
COMPOSE = (
    r"(?m)^[ \t-]{0,40}(gpus:[ \t]{0,9}[^\s#]{0,40}|driver:[ \t]{0,9}[\"']?cdi\b"
    r"|capabilities:(?:[ \t]{0,9}\[|[ \t]{0,9}\n[ \t]{0,40}-)[ \t\"']{0,9}gpu\b)"
)
# gitlab-runner, [runners.docker] gpus; Gitea's act_runner, container.options
RUNNER = (
    r"(?m)^[ \t]{0,40}(gpus[ \t]{0,9}=[ \t]{0,9}[\"'][^\"'\n]{1,40}[\"'])"
    rf"|^[ \t]{{0,40}}options:[^#\n]{{0,300}}?{_FLAG}"
)

PLAIN = (
    "/etc/crontab", "/etc/anacrontab", "/etc/cron.d/*", "/var/spool/cron/*", "/var/spool/cron/crontabs/*",
    "/etc/systemd/system/*.service", "/etc/systemd/system/*.service.d/*.conf", "/run/systemd/system/*.service",
    "/usr/local/lib/systemd/system/*.service", "/usr/lib/systemd/system/*.service", "/lib/systemd/system/*.service",
    "/etc/systemd/user/*.service",
    "/root/.config/systemd/user/*.service", "/home/*/.config/systemd/user/*.service",
    "/etc/default/*", "/etc/sysconfig/*", "/etc/conf.d/*",
)  # fmt: skip
# Of packages' own units there are hundreds.
OF_PACKAGES = (
    "/usr/lib/systemd/system/*.service",
    "/lib/systemd/system/*.service",
    "/run/systemd/system/*.service",
    "/etc/default/*",
    "/etc/sysconfig/*",
    "/etc/conf.d/*",
)
SCRIPTS = (
    "/etc/cron.hourly/*", "/etc/cron.daily/*", "/etc/cron.weekly/*", "/etc/cron.monthly/*", "/etc/rc.local",
    "/usr/local/bin/*", "/usr/local/sbin/*", "/opt/*.sh", "/opt/*/*.sh", "/opt/*/bin/*", "/srv/*.sh", "/srv/*/*.sh",
    "/root/*.sh", "/root/bin/*", "/root/*/*.sh", "/home/*/*.sh", "/home/*/bin/*", "/home/*/.local/bin/*",
)  # fmt: skip
COMPOSES = tuple(
    f"{directory}/*compose*.y*ml" for directory in ("/opt/*", "/opt/*/*", "/srv/*", "/srv/*/*", "/root", "/root/*", "/home/*", "/home/*/*")
)  # fmt: skip
RUNNERS = (
    "/etc/gitlab-runner/config.toml",
    "/srv/gitlab-runner/config/config.toml",
    "/root/.gitlab-runner/config.toml",
    "/home/*/.gitlab-runner/config.toml",
    "/etc/act_runner/config.y*ml",
)

GLOBS = (
    *(
        Glob(
            pattern,
            read=False,
            search=SHELL,
            limit=LARGEST,
            holds="--gpus"
            if pattern in OF_PACKAGES
            else "",  # what names a script need not have the flag itself
            follow="" if pattern in OF_PACKAGES else NAMED,
        )
        for pattern in PLAIN
    ),
    *(
        Glob(pattern, read=False, search=SHELL, limit=LARGEST, begins="#!", holds="--gpus")
        for pattern in SCRIPTS
    ),
    *(Glob(pattern, read=False, search=COMPOSE, limit=LARGEST) for pattern in COMPOSES),
    *(Glob(pattern, read=False, search=RUNNER, limit=LARGEST) for pattern in RUNNERS),
)
REQUEST = Request(globs=GLOBS)


class GpusFlag(Record):
    """found: (file, the flag as it stands there), by file. unread: the first place that could not be looked into."""

    found: tuple[tuple[str, str], ...]
    unread: Reading[str] | None


def starts_by_itself(path: str) -> bool:
    """Whether what stands in this file is started without anybody: by cron, systemd or a CI runner."""
    if path.startswith(("/etc/", "/var/spool/", "/run/", "/lib/", "/usr/lib/", "/usr/local/lib/")) or (
        path.endswith((".service", "/config.toml"))
    ):
        return True
    return not any(fnmatchcase(path, pattern) for pattern in (*SCRIPTS, *COMPOSES))  # cron or a unit names it


def parse(snapshot: Snapshot) -> GpusFlag:
    found: dict[str, str] = {}
    unread: Reading[str] | None = None
    for spec in GLOBS:
        listed = snapshot.glob(spec.pattern)
        if not listed.ok and unread is None:
            unread = Reading(listed.status, None, spec.pattern, listed.detail)
        paths = snapshot.answer.get("globs", {}).get(spec.pattern, {}).get("paths", ())
        for path in paths:
            hits = snapshot.found(path, spec.search)
            if hits.status in (Status.DENIED, Status.TIMEOUT) and unread is None:
                unread = Reading(hits.status, None, path, hits.detail)
            texts = hits.value or ()
            if any(text.startswith("driver:") for text in texts):
                texts = tuple(text for text in texts if text.startswith("gpus:"))
            if texts:
                found.setdefault(path, " ".join(texts[0].split()))
    return GpusFlag(tuple(sorted(found.items())), unread)
