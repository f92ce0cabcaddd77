"""Every rule over a compose project, for a project that is judged without a host."""

from __future__ import annotations

from gpumend.rules.compose import files, requests  # registers their checks
from gpumend.rules.compose.compose_rule import CHECKS
from gpumend.rules.compose.where import Where
from gpumend.rules.finding import Finding
from gpumend.state.compose_files import Project

__all__ = ["CHECKS", "files", "judge_project", "requests"]


def judge_project(project: Project, where: Where) -> tuple[Finding, ...]:
    """All findings on a project, by code."""
    return tuple(finding for _, check in sorted(CHECKS.items()) for finding in check(project, where))
