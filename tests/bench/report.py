"""The measurements as a page of Markdown: targets first, then every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def row_of(found: Mapping[str, Any], program: str, hosts: int, rtt: float = 0) -> dict[str, Any] | None:
    """The newest row of a program at so many hosts, or None where it was not measured there."""
    rows = rows_of(found, program, hosts, rtt)
    return rows[-1] if rows else None


def rows_of(found: Mapping[str, Any], program: str, hosts: int, rtt: float = 0) -> list[dict[str, Any]]:
    """Its rows of all runs that the page has, the newest last."""
    return [
        dict(row)
        for row in found["rows"]
        if (row["program"], row["hosts"], row["rtt"]) == (program, hosts, rtt)
    ]


def together(found: Mapping[str, Any], *asked: tuple[str, int]) -> list[dict[str, Any]]:
    """The rows of these programs at so many hosts in the newest run that has all of them: between two runs lie other machines,
    and other work on them. Empty where no run has."""
    runs = [{row.get("run", ""): row for row in rows_of(found, *each)} for each in asked]
    shared = [name for name in runs[0] if all(name in rows for rows in runs)]
    return [rows[shared[-1]] for rows in runs] if shared else []


def _ratio(found: Mapping[str, Any], above: str, below: str, hosts: int, key: str = "wall") -> float | None:
    rows = together(found, (above, hosts), (below, hosts))
    return rows[0][key] / rows[1][key] if rows and all(key in row for row in rows) else None


def slope(found: Mapping[str, Any], program: str, few: int, many: int) -> float | None:
    """Client CPU that one more host costs, in ms."""
    rows = together(found, (program, few), (program, many))
    return (rows[1]["cpu"] - rows[0]["cpu"]) / (many - few) * 1000 if rows else None


def slopes(found: Mapping[str, Any], above: str, below: str, few: int, many: int) -> float | None:
    """How many times as much CPU of the client one more host costs in one program as in the other."""
    rows = together(found, (above, few), (above, many), (below, few), (below, many))
    return (rows[1]["cpu"] - rows[0]["cpu"]) / (rows[3]["cpu"] - rows[2]["cpu"]) if rows else None


def targets(found: Mapping[str, Any]) -> list[tuple[str, str, float | None, str]]:
    """(what, target, measured, unit)."""
    fake = {row["hosts"]: row for row in found["fake"]}
    sizes = sorted(fake)
    growth = kept = None
    if len(sizes) > 2:
        one, few, middle, many = sizes[0], sizes[1], sizes[-2], sizes[-1]
        # Each of a thousand hosts: of one process while it asks them, of several what is done before and after that, which is less.
        around = {size: row["cpu"] - row["asked"] for size, row in fake.items()}
        early = fake[many]["first"] + around[few] - around[one]
        late = fake[many]["last"] + around[many] - around[middle]
        growth = late / early
        kept = (fake[many]["memory"] - fake[few]["memory"]) / (many - few) * 1024
    ours, own, floor = "gpumend audit, replayed", "gpumend audit", "pyinfra, one exec"
    drifted = "gpumend audit, drifted, replayed"
    memory = row_of(found, ours, 200)
    machine = row_of(found, own, 50)
    return [
        ("audit of 50 hosts, hosts replayed, against `ssh host true`", "<= 0.6", _ratio(found, ours, "ssh host true", 50), "x"),
        ("the same with the hosts' probes on the same two cores", "<= 2.7", _ratio(found, own, "ssh host true", 50), "x"),
        ("Ansible against our audit, 50 hosts on the same two cores", ">= 50", _ratio(found, "Ansible --check", own, 50), "x"),
        ("the same, client CPU", "", _ratio(found, "Ansible --check", own, 50, "cpu"), "x"),
        ("stock pyinfra against our audit, 50 hosts on the same two cores", ">= 4", _ratio(found, "stock pyinfra facts", own, 50), "x"),
        ("the same, client CPU", "", _ratio(found, "stock pyinfra facts", own, 50, "cpu"), "x"),
        ("client CPU a host above start-up, 1 to 200 hosts, replayed", "", slope(found, ours, 1, 200), "ms"),
        ("the same, drifted hosts", "", slope(found, drifted, 1, 200), "ms"),
        ("a drifted host against a healthy one", "<= 1.6", slopes(found, drifted, ours, 1, 200), "x"),
        ("their floor: pyinfra with paramiko for one exec of `true`", "", slope(found, floor, 1, 200), "ms"),
        ("and its: paramiko alone for the same", "", slope(found, "paramiko, one exec", 1, 200), "ms"),
        ("CPU of a host itself in an audit of 50: PID 1, dockerd, sshd and the probe", "",
         machine["machine"] / 50 * 1000 if machine and "machine" in machine else None, "ms"),
        ("memory at 200 hosts, replayed", "<= 98", memory["memory"] if memory else None, "MB"),
        (f"CPU of a host among the last of {sizes[-1]:,} (@fake) against one among the first", "<= 1.1", growth, "x"),
        ("memory that one of them takes", "<= 60", kept, "KB"),
        ("probe on a full Docker", "<= 0.3", found["full_docker"]["full"]["seconds"], "s"),
        ("its memory", "<= 40", found["full_docker"]["full"]["memory"], "MB"),
        *((f"`{name}`", "<= 0.2", seconds, "s") for name, seconds in found["commands"].items()),
    ]  # fmt: skip


OLDEST = "A: before the rows said which run they are of"
LOSS = 1.25  # a ratio that has grown by more than two runs of the same program differ


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """What two runs on different machines have in common: each figure over its floor's in the same run; less is better."""
    ours, own, floor = "gpumend audit, replayed", "gpumend audit", "pyinfra, one exec"
    full = found["full_docker"]
    told = {
        "audit of 50 hosts, replayed, over ssh": _ratio(found, ours, "ssh host true", 50),
        "audit of 50 hosts over ssh": _ratio(found, own, "ssh host true", 50),
        "audit of 50 hosts over Ansible": _ratio(found, own, "Ansible --check", 50),
        "audit of 50 hosts over stock pyinfra": _ratio(found, own, "stock pyinfra facts", 50),
        "CPU a host over pyinfra's one exec": slopes(found, ours, floor, 1, 200),
        "CPU of a drifted host over a healthy one": slopes(
            found, "gpumend audit, drifted, replayed", ours, 1, 200
        ),
        "memory at 200 hosts over pyinfra's one exec": _ratio(found, ours, floor, 200, "memory"),
        "a host's own CPU over ssh": _ratio(found, own, "ssh host true", 50, "machine"),
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
    return ""


def table(found: Mapping[str, Any]) -> str:
    """The whole page."""
    lines = [
        "# Measured",
        "",
        f"`{found['command']}` on {found['machine']}. Controller, relay and every host share these cores. Rows of one run are in turns,",
        "medians; each says of which run it is, and a ratio is of two rows of one run. A host is an address of one booted node with a",
        "real sshd, systemd and Docker (tests/bench/farm.py). The newest run's client is installed as pipx does it (tests/bench/client.py).",
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
        "processes, memory its first process's. The hosts' CPU is all of theirs, PID 1, dockerd and sshd with it. Execs are counted in",
        "sshd's log.",
        "",
        *(f"Run {name or OLDEST}." for name in dict.fromkeys(row.get("run", "") for row in found["rows"])),
        "",
        "| run | added RTT ms | hosts | program | runs | wall s | x | client CPU s | CPU ms a host | memory MB | hosts' CPU ms a host | SSH execs a host |",
        "| --- | --: | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in found["rows"]:
        run = row.get("run", "")
        other = (
            "gpumend mend"
            if row["program"] in ("gpumend mend", "stock pyinfra", "Ansible")
            else "gpumend audit"
        )
        same = {each.get("run", ""): each for each in rows_of(found, other, row["hosts"], row["rtt"])}
        ratio = f"{row['wall'] / same[run]['wall']:.2f}" if run in same else ""
        machine = f"{row['machine'] / row['hosts'] * 1000:.0f}" if "machine" in row else ""
        lines.append(
            f"| {run.partition(':')[0] or 'A'} | {row['rtt']:g} | {row['hosts']} | {row['program']} | {row['runs']} | {row['wall']:.2f} | {ratio} | {row['cpu']:.2f}"
            f" | {row['cpu'] / row['hosts'] * 1000:.1f} | {row['memory']:.0f} | {machine} | {row['execs'] / row['hosts']:.1f} |"
        )
    lines += [
        "",
        f"pyinfra's @fake connector, each host giving a healthy host's answer at once{found.get('fake_run', '')}:",
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
        "At most 9 x is wanted on a healthy host. Of it four tenths are Python's start, its modules and the program's compiling, a fifth the",
        "child that reads what others may have written.",
        "",
        "| host | program | own CPU ms | x `python3 -c pass` | the machine's CPU ms | wall ms | memory MB |",
        "| --- | --- | --: | --: | --: | --: | --: |",
        *(
            f"| {hosts[kind]} | {names[program]} | {own:.0f} | {own / floor[kind]:.1f} | {machine:.0f} | {wall:.0f} | {memory:.0f} |"
            for kind, program, own, machine, wall, memory in told["rows"]
        ),
    ]
