"""GM510 to GM512: k3s, RKE2, k0s and MicroK8s, which make their containerd's configuration of a template or of drop-ins."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.evidence import line_of, place
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.containerd import ConfigError, loads
from gpumend.state.kubernetes import MANAGED, K3s
from gpumend.state.reading import Unread
from gpumend.text.documents import toml
from gpumend.text.pattern import Pattern
from gpumend.text.version import show

BASE = Pattern(r"\{\{-?\s*template\s+\"base\"\s+\.\s*-?\}\}")


def has_k3s(context: Context) -> bool:
    k3s = context.state.kubernetes.k3s
    return has_gpu(context) and k3s is not None and k3s.flavour.like_k3s


def has_distribution(context: Context) -> bool:
    return has_gpu(context) and context.state.kubernetes.k3s is not None


def template_text(k3s: K3s) -> str | None:
    """The text of the template that counts; None where there is none. Raises Unread."""
    path = k3s.template
    return k3s.templates[path].map(lambda content: content.text()).get() if path else None


@rule(
    "GM510",
    "the k3s template includes the base",
    "k3s-io/k3s pkg/agent/containerd/config.go; docs.k3s.io advanced: configuring containerd",
    applies=has_k3s,
)
def template_without_base(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None or (text := template_text(k3s)) is None or BASE.search(text):
        return
    # A template may well be a whole configuration; it is a loss only where CNI and pause image are not in it.
    whole = ".cni]" in text and "sandbox" in text
    path = k3s.template or ""
    yield Finding(
        code="GM510",
        status=Status.WARN if whole else Status.FAIL,
        summary=f'{path} has no {{{{ template "base" . }}}}: it replaces {k3s.flavour.name}\'s whole configuration',
        evidence=(Evidence(f"{path}:1", (text.splitlines() or [""])[0][:120]),),
        cause="Without the base, CNI directories, the pause image and registries that the distribution sets are gone.",
        remedy='Begin the template with `{{ template "base" . }}` and keep only what is added.',
        refused="what this template was meant to keep is not ours to guess: it is left as it is",
        symptoms=("failed to create containerd config", "cni plugin not initialized"),
    )


ADDED = "/usr/bin/"  # where k3s looks for nvidia-container-runtime, beside the GPU operator's directory (runtimes.go)


def parts(text: str) -> list[str]:
    """What stands before and behind the base in a template, every line where it was: TOML, which k3s puts there as it is.
    Empty where it has other actions of Go's templates, so that its text depends on them."""
    found, lines = [], 0
    for part in BASE.split(text):
        found.append("\n" * lines + part)
        lines += part.count("\n")
    return [] if "{{" in "".join(found) else found


def broken(k3s: K3s) -> tuple[str, int | None, str]:
    """(file, line, why) where k3s' containerd would not start with what the template gives, or with what k3s has made of
    it; an empty file where it would. Raises Unread."""
    try:
        for part in parts(template_text(k3s) or ""):
            try:
                toml(part)
            except (ValueError, RecursionError) as error:
                raise ConfigError(k3s.template or "", str(error) or type(error).__name__) from None
        if k3s.generated.get() is not None:
            loads(k3s.flavour.generated, k3s.generated)
    except ConfigError as error:
        return error.path, line_of(error.detail), error.detail
    return "", None, ""


def origin(k3s: K3s, number: int) -> tuple[Evidence, ...]:
    """Where the template has the line that stands there in what k3s made of it; nothing where that is not plain."""
    text = k3s.generated.map(lambda content: content.text()).need().split("\n")[number - 1].strip()
    rows = [at for at, row in enumerate((template_text(k3s) or "").split("\n"), 1) if row.strip() == text]
    return (Evidence(f"{k3s.template}:{rows[0]}", text),) if len(rows) == 1 else ()


# Runtimes that the base has: runc always (templates.go), NVIDIA's where they are installed (runtimes.go).
THEIRS = Pattern(
    r"(?m)^[ \t]*(\[plugins\..*\.containerd\.runtimes\.[\"']?(runc|nvidia(?:-cdi|-experimental)?)[\"']?(?:\.options)?\])"
)


def repeated(k3s: K3s) -> tuple[int, str, str]:
    """(line, text, runtime) of a table that the base has, too, in a template that has the base; (0, "", "") without one.
    Raises Unread."""
    text = template_text(k3s)
    found = THEIRS.search(text or "")
    if text is None or found is None or not BASE.search(text):
        return 0, "", ""
    return text.count("\n", 0, found.start(1)) + 1, found.group(1), found.group(2)


REFUSED = "exit status 1: "  # of `containerd config dump`, before its own words


def refused(k3s: K3s) -> tuple[str, str]:
    """(file, why) where k0s or MicroK8s, or its containerd, does not take what there is; empty texts where it does, or where
    that is not known."""
    try:
        k3s.parsed()
        for path, content in k3s.templates.items():
            if path == k3s.flavour.template and content.value is not None:
                loads(path, content)
        told = k3s.dump.detail.startswith(REFUSED) and k3s.cri().enabled  # GM514 says it where the CRI is off
    except ConfigError as error:
        return error.path, error.detail
    except Unread:
        return "", ""
    return (k3s.flavour.generated, k3s.dump.detail.removeprefix(REFUSED)) if told else ("", "")


def _unreadable(k3s: K3s) -> Iterator[Finding]:
    """GM511 of k0s and MicroK8s."""
    name, (path, why) = k3s.flavour.name, refused(k3s)
    if not path:
        return
    where = place(path, line_of(why))
    later = path == k3s.flavour.template or k3s.drops_in(path)
    yield Finding(
        code="GM511",
        status=Status.FAIL,
        summary=f"{where}: {why}",
        evidence=(Evidence(where, why),),
        cause=f"{name} makes its containerd's configuration of this file: with it, no containerd starts"
        + (" again; one that runs has what was there before." if later else "."),
        remedy="Repair it, then `microk8s stop; microk8s start`."
        if k3s.flavour.template
        else f"Repair it, then `systemctl restart {k3s.unit.source.split()[-1]}`.",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
        symptoms=(
            "can't handle imports: encountered errors while processing containerd configuration import files",
            "containerd: failed to load TOML",
            "invalid disabled plugin URI",
        ),
    )


@rule(
    "GM511",
    "a distribution's containerd can read its configuration",
    "k3s-io/k3s pkg/agent/containerd/runtimes.go: nvidia is added by itself; toml.io: a table stands once; k0sproject/k0s "
    "configurer.go: handleImports, validateConfigTree; k0sproject/k0s#6547; measured with containerd 2.1.9",
    applies=has_distribution,
)
def unreadable_template(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None:
        return
    if not k3s.flavour.like_k3s:
        yield from _unreadable(k3s)
        return
    name, path = k3s.flavour.name, k3s.template or ""
    restart = f"restart {k3s.unit.source.split()[-1]}"
    number, table, runtime = repeated(k3s)
    if number:
        program = context.state.toolkit.programs["nvidia-container-runtime"].get()
        adds = runtime == "runc" or (program is not None and program.path.startswith(ADDED))
        yield Finding(
            code="GM511",
            status=Status.FAIL if adds else Status.WARN,
            summary=f"{path}:{number}: the table of the {runtime} runtime stands here, and {name} adds its own"
            + ("" if adds else " once the toolkit is installed"),
            evidence=(Evidence(f"{path}:{number}", table),),
            cause=f"The base of {name} has runc, and nvidia where nvidia-container-runtime is installed when it starts; a "
            "table that stands twice keeps containerd from starting.",
            remedy=f"Take the table out of the template, and {restart}.",
            refused="what else that table sets is not ours to drop: the template is left as it is",
            symptoms=("duplicated tables", "already exists"),
        )
    source, at, why = broken(k3s)
    made = source == k3s.flavour.generated
    if source and not (made and number):
        where = place(source, at)
        yield Finding(
            code="GM511",
            status=Status.FAIL,
            summary=f"{where}: {why}",
            evidence=(Evidence(where, why), *(origin(k3s, at) if made and at else ())),
            cause=f"{name} wrote it from its template, and its containerd cannot read it."
            if made
            else f"{name} puts this text behind its base at its next start, and its containerd cannot read it then.",
            remedy="Repair the template: the file itself is written anew at each start."
            if made
            else f"Repair the template, and {restart}.",
            refused="what the template was meant to say is not ours to guess: it is left as it is",
        )


def _unheeded(k3s: K3s) -> Iterator[Finding]:
    """GM512 of k0s: drop-ins beside a containerd.toml that k0s does not write."""
    if k3s.flavour.name != "k0s" or k3s.managed:
        return
    try:
        read = k3s.parsed()
    except (ConfigError, Unread):  # GM511
        return
    directory, own = f"{k3s.flavour.directory}/containerd.d", k3s.flavour.generated
    for path in sorted(k3s.parts):
        if path.startswith(f"{directory}/") and path not in read:
            yield Finding(
                code="GM512",
                status=Status.WARN,
                summary=f"{path} has no effect: {own} is not k0s' own, and does not import it",
                evidence=(Evidence(path, "exists"), Evidence(own, f"no line `{MANAGED.decode()}`")),
                cause=f"k0s takes the files of {directory} only while it writes {own} itself.",
                remedy=f"Put what it adds into {own}; or take {own} away and `systemctl restart "
                f"{k3s.unit.source.split()[-1]}`: k0s then writes its own again.",
                refused="which of the two is meant is the owner's decision",
            )


@rule(
    "GM512",
    "the k3s template, and k0s' drop-ins, are those that count",
    "k3s-io/k3s pkg/agent/containerd/config.go: config-v3.toml.tmpl (1.31.6, 1.32.2), then config.toml.tmpl; k0sproject/k0s "
    "docs/runtime.md, component.go isK0sManagedConfig",
    applies=has_distribution,
)
def template_without_effect(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None:
        return
    if not k3s.flavour.like_k3s:
        yield from _unheeded(k3s)
        return
    name = k3s.flavour.name
    for unknown in (found for found in k3s.flavour.templates if found not in k3s.heeded):
        if k3s.embedded and k3s.templates[unknown].get() is not None:
            yield Finding(
                code="GM512",
                status=Status.WARN,
                summary=f"{unknown} has no effect: this {name} looks for {k3s.heeded[0]} alone",
                evidence=(
                    Evidence(unknown, "exists"),
                    Evidence("containerd --version", show(k3s.version.need())),
                ),
                cause="config-v3.toml.tmpl came with containerd 2.0 (k3s 1.31.6 and 1.32.2).",
                remedy=f"Write what it adds into {k3s.heeded[0]}, under the names of version 2; or upgrade {name}.",
                refused="which of the two is meant is the owner's decision",
            )
    if k3s.template is None:
        return
    path = k3s.template
    if not k3s.embedded:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{path} has no effect: {name}'s kubelet uses {k3s.endpoint}",
            evidence=(
                Evidence(f"{name} container-runtime-endpoint", k3s.endpoint),
                Evidence(path, "a template for the embedded containerd"),
            ),
            cause=f"The containerd that serves this kubelet is a service of its own, and reads {context.state.containerd.path}.",
            remedy=f"Edit {context.state.containerd.path} instead; restarting {name} changes nothing.",
            refused="whether the template is still wanted is the owner's decision",
        )
        return
    both = [found for found in k3s.heeded if k3s.templates[found].get() is not None]
    if len(both) > 1:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{both[1]} has no effect: {both[0]} is taken",
            evidence=tuple(Evidence(found, "exists") for found in both),
            remedy="Keep one of the two.",
            refused="which of the two is meant is the owner's decision",
        )
    template, generated = k3s.templates[path].get(), k3s.generated.get()
    if template and generated and template.meta.mtime > generated.meta.mtime + 1:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{path} is newer than the configuration written from it: {name} has not been restarted since",
            evidence=(
                Evidence(path, f"changed at {template.meta.mtime:.0f}"),
                Evidence(k3s.flavour.generated, f"written at {generated.meta.mtime:.0f}"),
            ),
            cause=f"{name} writes its containerd's configuration at start only.",
            remedy=f"`systemctl restart {k3s.unit.source.split()[-1]}` when it suits: pods keep running, the API is away for "
            "some seconds.",
            refused=f"a restart of {name} is the owner's decision",
        )
