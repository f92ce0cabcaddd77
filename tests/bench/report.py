"""The measurements as a page of Markdown: targets first, then every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def row_of(found: Mapping[str, Any], program: str, hosts: int, rtt: float = 0) -> dict[str, Any] | None:
    """The row of a program at so many hosts, or None where it was not measured there."""
    for row in found["rows"]:
        if (row["program"], row["hosts"], row["rtt"]) == (program, hosts, rtt):
            return dict(row)
    return None


def _ratio(found: Mapping[str, Any], above: str, below: str, hosts: int, key: str = "wall") -> float | None:
    one, other = row_of(found, above, hosts), row_of(found, below, hosts)
    return one[key] / other[key] if one and other else None


def slope(found: Mapping[str, Any], program: str, few: int, many: int) -> float | None:
    """Client CPU that one more host costs, in ms."""
    one, other = row_of(found, program, few), row_of(found, program, many)
    return (other["cpu"] - one["cpu"]) / (many - few) * 1000 if one and other else None


def targets(found: Mapping[str, Any]) -> list[tuple[str, str, float | None, str]]:
    """(what, target, measured, unit)."""
    fake = {row["hosts"]: row for row in found["fake"]}
    sizes = sorted(fake)
    growth = None
    if len(sizes) > 2:
        few, middle, many = sizes[0], sizes[-2], sizes[-1]
        early = (fake[middle]["cpu"] - fake[few]["cpu"]) / (middle - few)
        late = (fake[many]["cpu"] - fake[middle]["cpu"]) / (many - middle)
        growth = late / early
    ours, own = "gpumend audit, replayed", "gpumend audit"
    memory = row_of(found, ours, 200)
    return [
        ("audit of 50 hosts, hosts replayed, against `ssh host true`", "<= 1.1", _ratio(found, ours, "ssh host true", 50), "x"),
        ("the same with the hosts' probes on the same two cores", "<= 1.1", _ratio(found, own, "ssh host true", 50), "x"),
        ("Ansible against our audit, 50 hosts on the same two cores", ">= 50", _ratio(found, "Ansible --check", own, 50), "x"),
        ("the same, client CPU", "", _ratio(found, "Ansible --check", own, 50, "cpu"), "x"),
        ("stock pyinfra against our audit, 50 hosts on the same two cores", ">= 4", _ratio(found, "stock pyinfra facts", own, 50), "x"),
        ("the same, client CPU", "", _ratio(found, "stock pyinfra facts", own, 50, "cpu"), "x"),
        ("client CPU a host above start-up, 1 to 200 hosts", "<= 3", slope(found, ours, 1, 200), "ms"),
        ("of that: pyinfra and paramiko for one exec of `true`", "", slope(found, "pyinfra, one exec", 1, 200), "ms"),
        ("memory at 200 hosts", "<= 100", memory["memory"] if memory else None, "MB"),
        ("CPU of a host among the last 500 of 1,000 (@fake) against one among the first", "~ 1", growth, "x"),
        ("probe on a full Docker", "<= 0.3", found["full_docker"]["full"]["seconds"], "s"),
        ("its memory", "<= 40", found["full_docker"]["full"]["memory"], "MB"),
        *((f"`{name}`", "<= 0.2", seconds, "s") for name, seconds in found["commands"].items()),
    ]  # fmt: skip


LOSS = 1.25  # a ratio that has grown by more than two runs of the same program differ


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """What two runs on different machines have in common: each figure over its floor's in the same run; less is better."""
    ours, own, floor = "gpumend audit, replayed", "gpumend audit", "pyinfra, one exec"
    full, one, least = found["full_docker"], slope(found, ours, 1, 200), slope(found, floor, 1, 200)
    told = {
        "audit of 50 hosts, replayed, over ssh": _ratio(found, ours, "ssh host true", 50),
        "audit of 50 hosts over ssh": _ratio(found, own, "ssh host true", 50),
        "audit of 50 hosts over Ansible": _ratio(found, own, "Ansible --check", 50),
        "audit of 50 hosts over stock pyinfra": _ratio(found, own, "stock pyinfra facts", 50),
        "CPU a host over pyinfra's one exec": one / least if one and least else None,
        "memory at 200 hosts over pyinfra's one exec": _ratio(found, ours, floor, 200, "memory"),
        "probe on a full Docker over a healthy host": full["full"]["seconds"] / full["empty"]["seconds"],
    }
    return {what: value for what, value in told.items() if value is not None}


def worse(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What is more than `LOSS` times as dear as it was, a line each."""
    was = ratios(before)
    return [
        f"{what}: {value:.2f} x, was {was[what]:.2f} x"
        for what, value in ratios(found).items()
        if what in was and value > was[what] * LOSS
    ]


def met(target: str, value: float | None) -> str:
    """Whether a target is met, in a word; empty where there is none."""
    if value is None:
        return "not measured"
    sign, _, number = target.partition(" ")
    if sign == "<=":
        return "yes" if value <= float(number) else "no"
    if sign == ">=":
        return "yes" if value >= float(number) else "no"
    if sign == "~":
        return "yes" if value <= float(number) * 1.25 else "no"
    return ""


def table(found: Mapping[str, Any]) -> str:
    """The whole page."""
    lines = [
        "# Measured",
        "",
        f"`{found['command']}` on {found['machine']}. Controller, relay and every host share these cores. All rows are of one run, in",
        "turns, medians. A host is an address of one booted node with a real sshd, systemd and Docker (tests/bench/farm.py).",
        f"*Replayed*: our probe's real answer comes after the {found['probe_seconds']:.2f} s that the probe takes alone, so that hosts do not",
        "compute on the controller's cores; everything else, SSH included, is as it is. Stock pyinfra and Ansible read what our audit",
        f"asks of every host by its name: {found['read']}. Our audit reads besides what it finds by pattern, processes, containers and",
        "images. A mend changes two lines of one file.",
        "",
        "![Wall time over hosts](bench.svg)",
        "",
        "| what | target | measured | met |",
        "| --- | --: | --: | --- |",
    ]
    for what, target, value, unit in targets(found):
        shown = "" if value is None else f"{value:.2f} {unit}"
        lines.append(f"| {what} | {target} {unit if target else ''} | {shown} | {met(target, value)} |")
    lines += [
        "",
        "`x`: wall time as a multiple of `gpumend audit` (or `gpumend mend`) on the same hosts. CPU is the client's with all its",
        "processes, memory its first process's. Execs are counted in sshd's log.",
        "",
        "| added RTT ms | hosts | program | runs | wall s | x | client CPU s | CPU ms a host | memory MB | SSH execs a host |",
        "| --: | --: | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in found["rows"]:
        other = (
            "gpumend mend"
            if row["program"] in ("gpumend mend", "stock pyinfra", "Ansible")
            else "gpumend audit"
        )
        ours = row_of(found, other, row["hosts"], row["rtt"])
        ratio = f"{row['wall'] / ours['wall']:.2f}" if ours else ""
        lines.append(
            f"| {row['rtt']:g} | {row['hosts']} | {row['program']} | {row['runs']} | {row['wall']:.2f} | {ratio} | {row['cpu']:.2f}"
            f" | {row['cpu'] / row['hosts'] * 1000:.1f} | {row['memory']:.0f} | {row['execs'] / row['hosts']:.1f} |"
        )
    lines += [
        "",
        "pyinfra's @fake connector, each host giving a healthy host's answer at once:",
        "",
        "| hosts | wall s | CPU s | memory MB |",
        "| --: | --: | --: | --: |",
    ]
    lines += [
        f"| {r['hosts']} | {r['wall']:.2f} | {r['cpu']:.2f} | {r['memory']:.0f} |" for r in found["fake"]
    ]
    full = found["full_docker"]
    lines += [
        "",
        f"The probe on a healthy host: {full['empty']['seconds']:.2f} s, {full['empty']['memory']:.0f} MB; with {full['containers']} containers and"
        f" {full['images']} images: {full['full']['seconds']:.2f} s, {full['full']['memory']:.0f} MB.",
    ]
    if "beside" in found:
        lines += ["", *_beside(found["beside"])]
    if "probe" in found:
        lines += ["", *_probe(found["probe"])]
    return "\n".join(lines) + "\n"


def _beside(told: Mapping[str, Any]) -> list[str]:
    """What `python -m tests.bench.beside COMMIT` measured."""
    return [
        f"Beside commit {told['commit']}, in turns in one run of its own (`python -m tests.bench.beside {told['commit']}`, {told['repeat']} runs each): hosts of",
        "@fake with the same answers, CPU of one more host and memory at 200 of the client.",
        "",
        "| what | then | now | x |",
        "| --- | --: | --: | --: |",
        *(f"| {what} | {was:.1f} | {now:.1f} | {now / was:.2f} |" for what, was, now in told["rows"]),
    ]


def _probe(told: Mapping[str, Any]) -> list[str]:
    """What `python -m tests.bench.probe COMMIT` measured."""
    floor = {kind: own for kind, program, own, *_ in told["rows"] if program == "pass"}
    names = {"pass": "`python3 -c pass`", "then": f"the probe of {told['commit']}", "now": "the probe"}
    hosts = {"healthy": "a healthy Docker host", "full": "with 200 containers and 500 images"}
    return [
        f"On the host (`python -m tests.bench.probe {told['commit']}`, one run of its own, {told['repeat']} in turns, medians): own CPU is the",
        "process' with all that it starts, the machine's has dockerd's and PID 1's share with it; memory is of its largest process.",
        f"What both answers have read differs in {len(told['unlike'])} places.",
        "At most 9 x was wanted on a healthy host. Of what is left a third is Python's start and the program's compiling, a quarter the",
        "child that reads what others may have written, which stays; half of the rest are dmesg, dpkg-query, modinfo and NVIDIA's tools.",
        "",
        "| host | program | own CPU ms | x `python3 -c pass` | the machine's CPU ms | wall ms | memory MB |",
        "| --- | --- | --: | --: | --: | --: | --: |",
        *(
            f"| {hosts[kind]} | {names[program]} | {own:.0f} | {own / floor[kind]:.1f} | {machine:.0f} | {wall:.0f} | {memory:.0f} |"
            for kind, program, own, machine, wall, memory in told["rows"]
        ),
    ]
