"""Whether a daemon may be restarted now, and whose containers would stop."""

from __future__ import annotations

from gpumend.rules.rule import Context


def restart_gate(context: Context) -> str:
    """Why a restart of dockerd would have to wait on this host now, or an empty text."""
    state, policy = context.state.docker, context.wanted.restarts
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    if state.info.absent or (state.info.value or {}).get("LiveRestoreEnabled") is True:
        return ""
    if not state.containers.ok:
        return f"whether containers run is not known: {state.containers.detail}"
    running = [found.label() for found in state.containers.value or () if found.running]
    return f"it would stop {len(running)} running: {', '.join(sorted(running))}" if running else ""
