"""The compose projects of a host: what is known of the host for them, and whether their containers are those of their files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from errno import ENOENT
from fnmatch import fnmatch
from os import strerror
from typing import TYPE_CHECKING

from gpumend.rules.change import RecreateServices, RewriteRequests
from gpumend.rules.compose.where import Where
from gpumend.rules.engines.docker_config import CDI_SINCE, spec_directories
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.toolkit.runtime import switches_to
from gpumend.state.compose import HostProject, ways
from gpumend.state.compose_request import requests

if TYPE_CHECKING:
    from gpumend.rules.compose.rewrite import Rewrite

NOT_ALLOWED = 'a container is made anew by mend only with compose.recreate = "allow"'


def has_projects(context: Context) -> bool:
    return bool(context.state.compose.projects)


def where_of(context: Context, found: HostProject) -> Where:
    """What this host has, as far as it is known."""
    docker, toolkit = context.state.docker, context.state.toolkit
    version, info = docker.version.value, docker.info.value
    known = toolkit.installed and toolkit.config.known
    names = context.state.cdi.resolve(spec_directories(context)).gpus()
    return Where(
        host=context.host,
        docker=version,
        compose=found.compose,
        toolkit=toolkit.version.value,
        mode=toolkit.mode() if known else "",
        wanted=switches_to(context)
        if known and toolkit.version.known and context.wanted.mode != "keep"
        else "",
        cdi=bool(info.get("CDISpecDirs")) if info and version and version >= CDI_SINCE else None,
        names=frozenset(name.partition("=")[2] for name in names) or None,
        runtime="nvidia" in (info.get("Runtimes") or {}) if info else None,
        skips=known and toolkit.value("nvidia-container-runtime-hook", "skip-mode-detection") is True,
    )


def wanted_form(context: Context, found: HostProject) -> str:
    """The form that is wanted of this project's requests; empty where they are left as they are."""
    wanted = context.wanted
    meant = any(fnmatch(found.name, pattern) for pattern in wanted.compose_projects)
    return "" if wanted.compose_form == "keep" or not meant else wanted.compose_form


def pending(context: Context, found: HostProject) -> dict[str, str]:
    """The services whose containers were made from another request than their files have, with what was and is asked. The
    runtime that Docker gives to all is no request."""
    default = str((context.state.docker.info.value or {}).get("DefaultRuntime") or "")
    rows = {}
    for service, containers in found.containers.items():
        now = set(found.asks[service])
        made = {way for each in containers for way in ways(each)}
        if default.startswith("nvidia") and "runtime" not in now:
            made.discard("runtime")
        if found.readable and now and made and now != made:
            rows[service] = (
                f"made with {' and '.join(sorted(made))}, the file has {' and '.join(sorted(now))}"
            )
    return rows


def command(found: HostProject, services: tuple[str, ...]) -> str:
    return f"cd {shlex.quote(found.directory)} && {' '.join(map(shlex.quote, found.up(services)))}"


@rule(
    "GM911",
    "a compose service's container is made from what its file says",
    "docs.docker.com compose up: containers are recreated where their configuration changed; labels of compose pkg/api/labels.go",
    applies=has_projects,
)
def recreated(context: Context) -> Iterator[Finding]:
    for found in context.state.compose.projects:
        for service, text in pending(context, found).items():
            place = requests(found.project.services[service])[0].place
            refused = held(found, found.others) if recreates(context) else NOT_ALLOWED
            refused = refused if wanted_form(context, found) else "compose.form is keep"
            yield Finding(
                code="GM911",
                status=Status.WARN if wanted_form(context, found) else Status.NOTE,
                summary=f"pending: docker compose up -d {service} (project {found.name}): {text}",
                evidence=(
                    Evidence(place, requests(found.project.services[service])[0].shown),
                    *(
                        Evidence(f"docker inspect {each.name}", f"id {each.id}")
                        for each in found.containers[service]
                    ),
                ),
                cause="Compose makes a container anew only when it is told to.",
                remedy=f"When its users can do without it for a moment:\n{command(found, (service,))}",
                change=None
                if refused
                else Change(Component.COMPOSE, RecreateServices((found.name, found.directory), (service,))),
                refused=refused,
            )


def opener(found: HostProject) -> Callable[[str], bytes]:
    """The project's files as they are known here: masked."""

    def read(path: str) -> bytes:
        source = found.project.files.get(path)
        if source is not None:
            return source.encode(source.text)
        if path in found.project.envs:
            return found.project.envs[path]
        raise FileNotFoundError(ENOENT, strerror(ENOENT))

    return read


def rewritten(context: Context, found: HostProject, form: str) -> Rewrite:
    """What a rewrite of the project into this form would be on this host."""
    from gpumend.rules.compose.rewrite import (  # loads PyYAML, and few hosts have such a project
        form_for,
        rewrite,
    )

    where = where_of(context, found)
    form = form_for(where) if form == "auto" else form
    # The mode that is wanted is not the one that a form has to work in now.
    return rewrite(found.project, opener(found), form, where)


def held(found: HostProject, files: Iterable[str]) -> str:
    """Why these files of the project are not written to by root; empty where they may be."""
    if not found.readable:
        problem = found.project.problems[0] if found.project.problems else None
        why = (
            f"{problem.path}: {problem.text}" if problem else "a container's service is in none of its files"
        )
        return f"not all that the project is made of is known: {why}"
    for path in sorted(files):
        if found.others.get(path):
            return f"{found.others[path]}: `gpumend compose fix` as the owner of {path} rewrites it"
    return ""


@rule(
    "GM912",
    "compose services ask for their GPUs in the wanted form",
    "desired state compose.form; moby daemon/devices.go; docker/compose PR #12184 (2.30.0)",
    applies=has_projects,
)
def wanted_forms(context: Context) -> Iterator[Finding]:
    for found in context.state.compose.projects:
        form = wanted_form(context, found)
        if not form:
            continue
        done = rewritten(context, found, form)
        for refusal in done.refused:
            yield Finding(
                code="GM912",
                status=Status.WARN,
                summary=f"{refusal.service or found.name} (project {found.name}) does not ask in the form {form!r}",
                evidence=(Evidence(refusal.place, refusal.why),),
                remedy="Change it by hand; `gpumend explain GM905` has the forms.",
                refused=refusal.why,
            )
        if not done.texts:
            continue
        refused = held(found, found.others if recreates(context) else done.texts)
        action = RewriteRequests((found.name, found.directory), form)
        yield Finding(
            code="GM912",
            status=Status.WARN,
            summary=f"{', '.join(done.changed)} (project {found.name}) {'do' if done.changed[1:] else 'does'} not ask in the form {form!r}",
            evidence=tuple(
                Evidence(request.place, request.shown)
                for service in done.changed
                for request in requests(found.project.services[service])[:1]
            ),
            remedy="Put that right first."
            if refused
            else "Mend rewrites the request, for the same GPUs, and makes the containers anew."
            if recreates(context)
            else "Mend rewrites the request, for the same GPUs. The containers stay as they are until they are made anew.",
            change=None if refused else Change(Component.COMPOSE, action),
            refused=refused,
        )


def recreates(context: Context) -> bool:
    return context.wanted.compose_recreate == "allow"


def without_problems(found: HostProject) -> HostProject:
    """The project with what could not be read left out: on a host its containers say what they ask for."""
    return found._replace(project=found.project._replace(problems=()))
