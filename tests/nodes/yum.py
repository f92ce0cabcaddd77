"""A repository of rpm packages on a node, its index signed as NVIDIA's is: real rpmbuild, createrepo_c and dnf of Debian sid.

The node stands in for one of an rpm distribution: dpkg does not answer there, rpm's database does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.nodes.apt import Deb
from tests.nodes.base import base
from tests.nodes.lab import Node
from tests.nodes.mirror import ROOT, Key, Signer

BUILD = "/srv/build"
# What scripts of packages need, and rpm knows nothing of on this node; what NVIDIA's kernel modules are known by; and of which dnf
# keeps several (dnf.conf(5) installonlypkgs).
PROVIDES = {
    "filesystem": ("/bin/sh",),
    "kernel-devel": ("installonlypkg(kernel)",),
    "kmod-nvidia-open-dkms": ("nvidia-kmod = {version}",),
    "kmod-nvidia-latest-dkms": ("nvidia-kmod = {version}",),
}
STOPS = '[ "$1" = upgrade ] || systemctl disable --now {units}\n'
OS_RELEASE = 'ID=rocky\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4, as tests see it"\n'


def requires(depends: str) -> list[str]:
    """`a (>= 1-1), b` of a Deb as a spec file says it."""
    found = []
    for each in filter(None, depends.split(", ")):
        match = re.fullmatch(r"(\S+)(?: \((<<|>>|<=|>=|=) (\S+)\))?", each)
        assert match, each
        name, sign, version = match.groups()
        found.append(
            f"Requires: {name}" + (f" {sign[0] if sign in ('<<', '>>') else sign} {version}" if sign else "")
        )
    return found


def spec(deb: Deb) -> str:
    number, _, revision = deb.version.partition("-")
    epoch, _, version = number.rpartition(":")
    rows = [
        f"Name: {deb.name}",
        *([f"Epoch: {epoch}"] if epoch else []),
        f"Version: {version}",
        f"Release: {revision or '1'}",
        "Summary: stand-in of tests",
    ]
    rows += [
        "License: none",
        "BuildArch: noarch",
        "AutoReqProv: no",
        *(f"Provides: {each.format(version=number)}" for each in PROVIDES.get(deb.name, ())),
        *([f"Conflicts: {deb.conflicts}"] if deb.conflicts else []),
        *requires(deb.depends),
        "%description",
        "Stand-in.",
    ]
    rows += ["%install", "mkdir -p %{buildroot}", f"cp -a {BUILD}/{deb.name}/. %{{buildroot}}/"]
    for section, name, argument in (
        ("%post", "postinst", "configure"),
        ("%preun", "prerm", "remove"),
        ("%postun", "postrm", "remove"),
    ):
        if name in deb.scripts:
            script = deb.scripts[name].replace("#!/bin/sh\n", "")
            first = (
                f"set -- {argument}"
                if section == "%post"
                else '[ "$1" = 0 ] && set -- remove || set -- upgrade'
            )
            rows += [section, first, script]
    return "\n".join([*rows, "%files", *deb.files, ""])


def devel(debs: Sequence[Deb]) -> list[Deb]:
    """Packages with the names that NVIDIA's rpms have."""
    return [
        replace(
            deb, name=deb.name.replace("-dev-", "-devel-"), depends=deb.depends.replace("-dev-", "-devel-")
        )
        for deb in debs
    ]


def docker_ce(suite: str) -> list[Deb]:
    """Docker's packages by their names of rpm, with the programs and units of a base in them."""
    root = base(suite)

    def made(name: str, parts: Sequence[str], depends: str = "", enable: str = "") -> Deb:
        listed = [
            path
            for part in parts
            for path in (root / f"var/lib/dpkg/info/{part}.list").read_text().splitlines()
            if path.startswith(("/usr/bin/", "/usr/sbin/", "/usr/lib/systemd/"))
            and (root / path[1:]).is_file()
        ]
        files = {
            path: ((root / path[1:]).read_bytes(), (root / path[1:]).stat().st_mode & 0o777)
            for path in listed
        }
        script = (
            f"groupadd -f docker\nsystemctl daemon-reload\nsystemctl enable --now {enable}\n"
            if enable
            else ""
        )
        scripts = {"postinst": script, "prerm": STOPS.format(units=enable)} if enable else {}
        return Deb(name, "29.1.0-1", depends=depends, files=files, scripts=scripts)

    return [
        made("containerd.io", ("containerd", "runc"), enable="containerd.service"),
        made("docker-ce-cli", ("docker-cli",)),
        made("docker-ce", ("docker.io",), "docker-ce-cli, containerd.io", "docker.socket docker.service"),
    ]


def modulemd(module: str, default: str, streams: Mapping[str, Sequence[Deb]]) -> str:
    """The metadata of a module, as `modifyrepo_c --mdtype=modules` takes it (modulemd v2): by stream its packages."""
    texts = []
    for number, (stream, debs) in enumerate(streams.items()):
        rows = []
        for deb in debs:
            version, _, revision = deb.version.partition("-")
            full = version if ":" in version else f"0:{version}"
            rows.append(f"      - {deb.name}-{full}-{revision or '1'}.noarch\n")
        texts.append(
            f"---\ndocument: modulemd\nversion: 2\ndata:\n  name: {module}\n  stream: '{stream}'\n"
            f"  version: 20261101000000\n  context: 0000000{number}\n  arch: x86_64\n  summary: stand-in of tests\n"
            "  description: stand-in\n  license:\n    module: [MIT]\n  artifacts:\n    rpms:\n"
            + "".join(rows)
            + "...\n"
        )
    return "".join(texts) + (
        f"---\ndocument: modulemd-defaults\nversion: 1\ndata:\n  module: {module}\n  stream: {default}\n"
        f"  profiles:\n    {default}: []\n...\n"
    )


def publish(node: Node, path: str, debs: Sequence[Deb], by: Signer, key: Key, modules: str = "") -> None:
    """A repository whose index this key has signed lies in a directory of the mirror's. modules: their metadata."""
    node.sh('rm -rf "$1" "$2"; mkdir -p "$1" "$2"', f"{ROOT}/{path}", BUILD)
    for deb in debs:
        node.sh('rm -rf "$1"; mkdir -p "$1"', f"{BUILD}/{deb.name}")  # of its other version
        for name, (data, mode) in deb.files.items():
            node.run(["mkdir", "-p", f"{BUILD}/{deb.name}{name.rpartition('/')[0]}"])
            node.write(f"{BUILD}/{deb.name}{name}", data, mode)
        node.write(f"{BUILD}/{deb.name}.spec", spec(deb))
        define = [
            f"_topdir {BUILD}/top",
            f"_rpmdir {ROOT}/{path}",
            "__os_install_post %{nil}",
            "_build_id_links none",
            "_binaries_in_noarch_packages_terminate_build 0",
            "_binary_payload w0.gzdio",  # packed as it is: dockerd has 80 MB
        ]
        options = [word for each in define for word in ("--define", each)]
        node.run(["rpmbuild", "-bb", "--quiet", "--nodeps", *options, f"{BUILD}/{deb.name}.spec"])
    node.run(["createrepo_c", "--quiet", f"{ROOT}/{path}"])
    if modules:
        node.write(f"{BUILD}/modules.yaml", modules)
        node.run(["modifyrepo_c", "--mdtype=modules", f"{BUILD}/modules.yaml", f"{ROOT}/{path}/repodata"])
    index = f"{ROOT}/{path}/repodata/repomd.xml"
    node.write(
        f"{index}.asc",
        by.gpg("--local-user", key.fingerprint, "--armor", "--detach-sign", data=node.read(index)),
    )


def becomes_rpm_s(node: Node, by: Signer, key: Key) -> None:
    """rpm's database is this node's, with one package in it; dpkg's does not answer."""
    # zypp takes a host without glibc for broken.
    packages = [Deb(name, "3.16-1", files={f"/etc/{name}": (b"", 0o644)}) for name in ("filesystem", "glibc")]
    publish(node, "base", packages, by, key)
    node.sh(
        "rpm --initdb; rpm -i --nodeps $1/base/noarch/*.rpm; mv /usr/bin/dpkg-query /usr/bin/dpkg-query.away",
        ROOT,
    )
    node.sh("rm -f /etc/os-release; mkdir -p /etc/yum.repos.d")
    node.write("/etc/os-release", OS_RELEASE)
