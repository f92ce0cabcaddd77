"""A rule over a compose project: judged alone by `gpumend compose audit`, and on a host with what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpumend.rules.compose.host import has_projects, where_of, without_problems
from gpumend.rules.compose.where import Where
from gpumend.rules.finding import Evidence, Finding
from gpumend.rules.rule import Context, rule
from gpumend.state.compose_files import Project, Service
from gpumend.state.compose_request import Request, requests

Check = Callable[[Project, Where], Iterator[Finding]]
CHECKS: dict[str, Check] = {}


def compose_rule(code: str, title: str, source: str) -> Callable[[Check], Check]:
    """Register a check of compose projects under its code."""

    def register(check: Check) -> Check:
        @rule(code, title, source, applies=has_projects)
        def on_host(context: Context) -> Iterator[Finding]:
            for found in context.state.compose.projects:
                mine = found if found.named else without_problems(found)
                services = {
                    name: service
                    for name, service in mine.project.services.items()
                    if found.named or name in mine.containers
                }
                yield from check(mine.project._replace(services=services), where_of(context, found))

        CHECKS[code] = check
        return check

    return register


def asking(project: Project) -> Iterator[tuple[Service, tuple[Request, ...]]]:
    """The services that ask for a GPU, with their requests."""
    for service in project.services.values():
        if found := tuple(request for request in requests(service) if request.way != "node"):
            yield service, found


def evidence(request: Request) -> Evidence:
    return Evidence(request.place, request.shown)
