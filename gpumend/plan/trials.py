"""The engine paths on which a container is started for proof, where the wanted state names an image for it."""

from __future__ import annotations

from gpumend.rules.engines.engine import ENGINES
from gpumend.rules.engines.trial import Trial
from gpumend.rules.rule import Context

__all__ = ["Trial", "trials"]


def trials(context: Context) -> tuple[Trial, ...]:
    """Every path by which containers of this host can ask for the GPU, as far as `prove.engines` names its engine.

    CRI-O, and containerd behind a kubelet, take pods only, and a kubelet deletes pods that are not its own (kubernetes.io,
    debugging nodes with crictl): they are proven by what they say of themselves.
    """
    named = context.wanted.prove_engines
    found = [trial for engine in ENGINES for trial in engine.trials(context, named is not None)]
    return tuple(trial for trial in found if named is None or trial.engine in named)
