"""The wanted CUDA toolkit: its packages or its runfile, then holds and the default link; proven by what lies in its directory."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import CudaDefault, CudaToolkitProof, HoldPackages, InstallRunfile, PackageStep, Step
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import InstallCuda
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    [job] = of_kind(changes, InstallCuda)
    steps: list[Step] = []
    if job.targets:
        steps.append(PackageStep(job.manager, job.verb, job.targets))
    if job.runfile:
        steps.append(InstallRunfile(*job.runfile, job.path))
    if job.hold:
        steps.append(HoldPackages(job.hold))
    if job.default:
        steps.append(CudaDefault(job.path))
    default = bool(context.wanted.cuda_toolkit and context.wanted.cuda_toolkit.default)
    steps.append(CudaToolkitProof(job.release, job.path, job.manager, job.names, job.compiler, default))
    settle = (("ldconfig",),) if job.runfile else ()
    wait = context.wanted.cuda_lock_wait
    return Transaction(Component.CUDA_TOOLKIT, codes, tuple(steps), settle=settle, package_wait=wait)
