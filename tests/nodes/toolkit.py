"""Installs the stand-ins for NVIDIA's container toolkit on a node, where its packages would put the tools."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from gpumend.state.packages import TOOLKIT as TOOLKIT_PACKAGES
from tests.nodes.apt import Deb
from tests.nodes.lab import Node

STANDINS = Path(__file__).parent / "standins"
LIBRARY = "/usr/local/lib/gpumend-standin"  # on the node
SETTINGS = "/etc/gpumend-standin.json"
CONFIG = "/etc/nvidia-container-runtime/config.toml"
REFRESH_ENV = "/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
DEFAULT_TOOLKIT = "1.17.8"
PROGRAMS = (  # installed in /usr/bin; the module of the same name (with underscores) is what runs
    "nvidia-ctk",
    "nvidia-container-runtime",
    "nvidia-container-runtime-hook",
    "nvidia-cdi-hook",
)

WRAPPER = """#!/usr/bin/python3
# STAND-IN for tests, not NVIDIA's {program}: see {library}/standins/{module}.py
import sys

sys.path.insert(0, "{library}")
from standins.{module} import main

sys.exit(main())
"""

REFRESH_SERVICE = """# STAND-IN for tests: the unit of toolkit >= 1.18, less its check of modules.dep.
[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/sbin/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecStart=/usr/bin/nvidia-ctk cdi generate

[Install]
WantedBy=multi-user.target
"""
REFRESH_PATH = """# STAND-IN for tests: the unit of toolkit >= 1.18.
[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/modules.dep.bin
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare."""
    return tuple(int(part) for part in version.split("-")[0].split("."))


def modules() -> dict[str, tuple[bytes, int]]:
    """The stand-ins' modules: path -> (bytes, mode)."""
    sources = sorted(STANDINS.glob("*.py"))
    return {f"{LIBRARY}/standins/{source.name}": (source.read_bytes(), 0o644) for source in sources}


def programs(*names: str) -> dict[str, tuple[bytes, int]]:
    """The stand-ins' programs in /usr/bin: path -> (bytes, mode)."""
    return {
        f"/usr/bin/{name}": (
            WRAPPER.format(program=name, library=LIBRARY, module=name.replace("-", "_")).encode(),
            0o755,
        )
        for name in names
    }


def archive() -> bytes:
    """A tar of the stand-in modules and of their programs in usr/bin."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (data, mode) in {**modules(), **programs(*PROGRAMS)}.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(data), mode
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def debs(
    version: str, says: str = "", depends: str = "", conflicts: str = "", postinst: str = ""
) -> list[Deb]:
    """The toolkit's four packages with the stand-ins in them, named and related as NVIDIA's of 1.17 are (nct packaging/debian);
    from 1.18 on with nvidia-cdi-refresh, which is started.

    says: the version that the programs answer, where that is to be another. depends, conflicts: of the first, besides.
    postinst: run after the real one's line, which writes config.toml anew.
    """
    full = f"{version}-1"
    toolkit, base, tools, library = TOOLKIT_PACKAGES
    settings = json.dumps({"toolkit": says or version, "faults": []}) + "\n"
    files = {**modules(), **programs("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook")}
    files[SETTINGS] = (settings.encode(), 0o644)
    configured = [f"/usr/bin/nvidia-ctk --quiet config --config-file={CONFIG} --in-place"]
    removed = [":"]
    conffiles: tuple[str, ...] = ()
    if numbers(version) >= (1, 18):
        units = "nvidia-cdi-refresh.path nvidia-cdi-refresh.service"
        for suffix, text in (("service", REFRESH_SERVICE), ("path", REFRESH_PATH)):
            files[f"/etc/systemd/system/nvidia-cdi-refresh.{suffix}"] = (text.encode(), 0o644)
        files[REFRESH_ENV] = (b"# see nvidia-ctk cdi generate --help\n", 0o644)
        conffiles = (REFRESH_ENV,)
        configured.append(f"systemctl daemon-reload; systemctl enable -q {units}; systemctl start {units}")
        removed.append(f"systemctl disable -q --now {units}")
    if postinst:
        configured.append(postinst)

    def script(action: str, commands: list[str]) -> str:
        return f'#!/bin/sh\nset -e\nif [ "$1" = {action} ]; then {"; ".join(commands)}; fi\n'

    needs = f"{base} (= {full}), {tools} (>= {full}), {tools} (<< 2.0.0)"
    return [
        Deb(
            toolkit,
            full,
            depends=", ".join(filter(None, (needs, depends))),
            conflicts=conflicts,
            files=programs("nvidia-container-runtime-hook"),
        ),
        Deb(
            base,
            full,
            files=files,
            conffiles=conffiles,
            scripts={"postinst": script("configure", configured), "prerm": script("remove", removed)},
        ),
        Deb(tools, full, depends=f"{library} (>= {full})"),
        Deb(library, full),
    ]


def configure(node: Node, version: str = DEFAULT_TOOLKIT, faults: Sequence[str] = ()) -> None:
    """The stand-ins pretend to be `version` and have `faults` ("nvidia-ctk fails", "nvidia-ctk hangs")."""
    node.write(SETTINGS, json.dumps({"toolkit": version, "faults": list(faults)}) + "\n")


def install(node: Node, version: str = DEFAULT_TOOLKIT) -> None:
    """The toolkit's programs are in /usr/bin. No config file, no spec and no unit comes with them."""
    node.unpack(archive())
    configure(node, version)


def remove(node: Node) -> None:
    """None of the toolkit's programs is installed; the files that an admin may have written stay."""
    node.sh('for name; do rm -f "/usr/bin/$name"; done', *PROGRAMS)
    node.sh('rm -rf "$1" "$2"', LIBRARY, SETTINGS)


def write_config(node: Node, text: str | None = None, mode: str = "auto") -> None:
    """config.toml is `text`, or the toolkit's own default with that runtime mode."""
    if text is None:
        text = node.run(["nvidia-ctk", "config", "default"]).stdout.replace(
            'mode = "auto"', f'mode = "{mode}"'
        )
    node.write(CONFIG, text)


def generate_spec(node: Node, path: str = "/etc/cdi/nvidia.yaml") -> None:
    """`path` holds the spec that the node's nvidia-ctk generates now."""
    node.run(["nvidia-ctk", "cdi", "generate", f"--output={path}"])


def install_refresh_units(node: Node, version: str = "1.18.2") -> None:
    """nvidia-cdi-refresh's units are enabled, and its spec lies in /var/run/cdi (new after each reboot)."""
    directory = "/lib/systemd/system" if numbers(version) >= (1, 20) else "/etc/systemd/system"
    node.write(f"{directory}/nvidia-cdi-refresh.service", REFRESH_SERVICE)
    node.write(f"{directory}/nvidia-cdi-refresh.path", REFRESH_PATH)
    node.sh(
        "systemctl daemon-reload; set -- nvidia-cdi-refresh.path nvidia-cdi-refresh.service;"
        ' systemctl enable --quiet "$@"; systemctl start "$@"'
    )
