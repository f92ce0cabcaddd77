"""Compose projects: requests in another form, and containers that are made anew where that is allowed."""

from __future__ import annotations

from gpumend.plan.step import EditFile, RunCommand, Step
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import RecreateServices, RewriteRequests
from gpumend.rules.compose.host import opener, recreates, rewritten
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.compose import HostProject

# Nothing but the containers themselves: no image is built or fetched, and what the service depends on stays as it is.
ALONE = ("--no-deps", "--no-build", "--pull", "never")


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    projects = {(found.name, found.directory): found for found in context.state.compose.projects}
    steps: list[Step] = []
    services: dict[tuple[str, str], dict[str, None]] = {}
    for change in changes:
        action = change.action
        if isinstance(action, RewriteRequests):
            found = projects[action.project]
            done = rewritten(context, found, action.form)
            read = opener(found)
            steps += [
                EditFile(path, found.sha256[path], done.edits[path], read(path), data)
                for path, data in done.texts.items()
            ]
            if recreates(context):
                running = [name for name in done.changed if name in found.containers]
                services.setdefault(action.project, {}).update(dict.fromkeys(running))
        elif isinstance(action, RecreateServices):
            services.setdefault(action.project, {}).update(dict.fromkeys(action.services))
    settle = tuple(_up(projects[key], tuple(names)) for key, names in services.items() if names)
    steps += [RunCommand(argv) for argv in settle]
    return Transaction(Component.COMPOSE, codes, tuple(steps), settle=settle)


def _up(found: HostProject, services: tuple[str, ...]) -> tuple[str, ...]:
    argv = found.up(services)
    at = argv.index("-d") + 1
    return (*argv[:at], *ALONE, *argv[at:])
