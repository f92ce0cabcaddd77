"""GM513 to GM516: what a Kubernetes node needs of its containerd beside the runtime itself, and distributions that bring one."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.engines.containerd_config import (
    NVIDIA,
    cri,
    embedded,
    injects,
    not_read,
    pods_readable,
    serves_pods,
    source_of,
    uses_grit,
)
from gpumend.rules.engines.k3s import refused
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.containerd import CONFIG, ConfigError
from gpumend.state.reading import Unread
from gpumend.state.toolkit import OPERATOR_ROOT

OTHER_ENDPOINTS = ("crio", "cri-dockerd", "dockershim")


def _node(context: Context) -> bool:
    """Whether a kubelet's pods are served by a containerd that is read here, also between two starts of the kubelet."""
    kubernetes = context.state.kubernetes
    told = kubernetes.kubelet.endpoint or (kubernetes.k3s.endpoint if kubernetes.k3s else "")
    if not has_gpu(context) or any(name in told for name in OTHER_ENDPOINTS):
        return False
    if embedded(context) is not None:
        return pods_readable(context)
    containerd = context.state.containerd
    if not containerd.installed or not_read(context) or not kubernetes.node:
        return False
    if not told and (context.state.crio.installed or _cri_dockerd(context)):
        return False  # whose pods they are is not told
    try:
        containerd.cri()
    except ConfigError:
        return False  # GM501
    except Unread:
        pass
    return True


def _cri_dockerd(context: Context) -> bool:
    info = context.state.docker.info.value or {}
    return bool(info) and not context.state.containerd.process.ok


@rule(
    "GM513",
    "pods get the GPU by the default runtime or by a class",
    "k8s-device-plugin#406, #444, #479, #788, #1220, #1574; k8s-device-plugin README: configure containerd; kubernetes.io RuntimeClass",
    applies=pods_readable,
)
def default_runtime(context: Context) -> Iterator[Finding]:
    kubernetes, k3s = context.state.kubernetes, embedded(context)
    if not (serves_pods(context) or k3s is not None) or kubernetes.plugin:
        return  # the plugin has found the GPUs: it has its class, or an injection of its own
    if context.wanted.containerd_runtimes is not None:
        return  # which runtimes the cluster's classes name has been said
    if k3s is not None and k3s.flavour.like_k3s:
        return  # k3s and RKE2 bring RuntimeClass objects for what they register
    settings = cri(context)
    nvidia = [name for name, found in settings.runtimes.items() if injects(found.binary)]
    default = settings.runtimes.get(settings.default)
    if not nvidia or not settings.enabled or (default is not None and injects(default.binary)):
        return
    if any(settings.runtimes[name].binary.startswith(OPERATOR_ROOT) for name in nvidia):
        return  # the GPU Operator makes the RuntimeClass objects
    whose = f"{k3s.flavour.name}'s containerd" if k3s else "containerd"
    name = NVIDIA if NVIDIA in nvidia else nvidia[0]
    where = source_of(k3s) if k3s else context.state.containerd.path
    yield Finding(
        code="GM513",
        status=Status.WARN,
        summary=f"{whose}'s default runtime is {settings.default}: only pods with a RuntimeClass for {name} get the GPU, and no "
        "device plugin has found one",
        evidence=(
            Evidence("containerd config dump", f"default_runtime_name = {settings.default!r}"),
            Evidence("containerd config dump", f"runtimes: {', '.join(sorted(settings.runtimes))}"),
            Evidence("/var/lib/kubelet/device-plugins", "no nvidia-gpu.sock"),
        ),
        cause="A device plugin without that class sees no GPU itself and offers none: nvidia.com/gpu is 0.",
        remedy=f'Either `default_runtime_name = "{name}"` in {where}, then restart it; or a RuntimeClass with handler {name}, and '
        f"`runtimeClassName` in the device plugin and in each pod. `containerd.runtimes` in the desired state says that the "
        "latter is meant.",
        refused="which of the two a cluster has is its owner's decision",
        symptoms=(
            "Detected non-NVML platform: could not load NVML library",
            "Incompatible strategy detected auto",
            "Insufficient nvidia.com/gpu",
        ),
    )


@rule(
    "GM514",
    "containerd's CRI plugin is on where a kubelet needs it",
    "containerd#4581, nct#410, kubernetes/minikube#3471: Docker's containerd.io brings disabled_plugins; containerd docs/cri",
    applies=_node,
)
def cri_disabled(context: Context) -> Iterator[Finding]:
    settings, k3s = cri(context), embedded(context)
    if settings.enabled:
        return
    containerd, kubernetes = context.state.containerd, context.state.kubernetes
    whose = f"{k3s.flavour.name}'s containerd" if k3s else "containerd"
    files = k3s.parts if k3s else containerd.files
    paths = [
        path
        for path, content in files.items()
        if content.value is not None and b"disabled_plugins" in content.value.data
    ]
    if k3s is not None and k3s.generated.value and b"disabled_plugins" in k3s.generated.value.data:
        paths.insert(0, k3s.flavour.generated)
    if k3s is not None:
        paths = [path for path in paths if path != CONFIG]  # merged from another's, at most
    file = ", ".join(paths) or (k3s.flavour.generated if k3s else containerd.path)
    unit = kubernetes.service.value or {}
    dump = k3s.dump if k3s else containerd.dump
    # From version 2 on it takes whole names of plugins alone: `invalid disabled plugin URI "cri"` (measured with 2.1.9).
    said = dump.detail if dump.detail.startswith("exit status") else ""
    yield Finding(
        code="GM514",
        status=Status.FAIL,
        summary=f"{whose}'s CRI plugin is off: the kubelet cannot start a pod",
        evidence=(
            Evidence(file, "disabled_plugins names cri"),
            *([Evidence("containerd config dump", said)] if said else []),
            Evidence("/proc, kubelet.service", "kubelet runs")
            if kubernetes.kubelet.process.ok
            else Evidence(
                "systemctl show kubelet.service",
                f"{unit.get('ActiveState', 'no such unit')}; no kubelet at this second",
            ),
        ),
        cause="Docker's containerd.io package has it off, since Docker needs no CRI; or a file for Docker's containerd was added here."
        + (" This containerd refuses the file with it, and does not start again." if said else ""),
        remedy=f"Take cri out of disabled_plugins in {file}, then "
        + (
            f"`systemctl restart {k3s.unit.source.split()[-1]}`."
            if k3s and not k3s.flavour.template
            else "`microk8s stop; microk8s start`."
            if k3s
            else "`systemctl restart containerd`."
        ),
        refused="that this containerd serves a kubelet is its owner's decision",
        symptoms=(
            "unknown service runtime.v1.RuntimeService",
            "unknown service runtime.v1alpha2.RuntimeService",
            "validate CRI v1 runtime API for endpoint",
        ),
    )


def _elsewhere(context: Context) -> bool:
    """Whether pods are started by a containerd whose file is not read."""
    if not has_gpu(context) or embedded(context) is not None or not not_read(context):
        return False
    return serves_pods(context) or uses_grit(context) or context.wanted.containerd_runtimes is not None


@rule(
    "GM515",
    "the containerd of this node is one that is judged",
    "containerd(8) --config; kops nodeup, Talos and others start it with a file of their own; design promise 4",
    applies=_elsewhere,
)
def not_judged(context: Context) -> Iterator[Finding]:
    containerd = context.state.containerd
    process = containerd.process.value
    yield Finding(
        code="GM515",
        status=Status.UNKNOWN,
        summary=f"containerd reads {containerd.path}: the containerd of this distribution is not judged",
        evidence=(Evidence("/proc", " ".join(process.argv)[:200] if process else containerd.path),),
        cause=f"Judged are {CONFIG}, k3s, RKE2, k0s, MicroK8s and kOps. Runtimes, CDI and cgroup driver of others are not known "
        "here; everything else on this host is judged.",
        remedy=f"`containerd --config {containerd.path} config dump` shows what it has; a waiver of GM515 says that somebody "
        "looks after it.",
        refused="nothing is changed in what is not known",
    )


@rule(
    "GM516",
    "a distribution's containerd has what its files say",
    "k0sproject/k0s pkg/component/worker/containerd/component.go: watchDropinConfigs; canonical/microk8s run-containerd-with-args: "
    "rendered at start only",
    applies=pods_readable,
)
def waits_for_start(context: Context) -> Iterator[Finding]:
    k3s = embedded(context)
    if k3s is None or k3s.flavour.like_k3s or (process := k3s.process.get()) is None or refused(k3s)[0]:
        return  # GM511: a start would bring no containerd
    sources = {path: content for path, content in k3s.parts.items() if k3s.drops_in(path)}
    sources |= {path: content for path, content in k3s.templates.items() if path == k3s.flavour.template}
    later = [
        content.value
        for content in sources.values()
        if content.value is not None and content.value.meta.mtime > process.start + 1
    ]
    for content in later[:1]:
        yield Finding(
            code="GM516",
            status=Status.WARN,
            summary=f"{content.path} was changed after {k3s.flavour.name}'s containerd started, which does not have it",
            evidence=(
                Evidence("/proc", f"{process.argv[0]} started at {process.start:.0f}"),
                Evidence(content.path, f"changed at {content.meta.mtime:.0f}"),
            ),
            cause="MicroK8s renders its containerd's configuration at its own start."
            if k3s.flavour.template
            else "k0s starts its containerd anew some seconds after a file of containerd.d changes: here it has not.",
            remedy="`microk8s stop; microk8s start` when it suits."
            if k3s.flavour.template
            else f"`systemctl restart {k3s.unit.source.split()[-1]}` when it suits: pods keep running.",
            refused=f"a restart of {k3s.flavour.name} is the owner's decision",
        )
