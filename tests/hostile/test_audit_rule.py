"""What the sudo rule for the audit gives away: nothing that an account without any right could not have learned by itself,
but what docs/sudo.md lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gpumend.run.programs import installed_program
from gpumend.state.host_state import request
from gpumend.state.snapshot import unpacked
from tests.hostile.attacks import UNGUARDED, add, as_user, attempt, probed, program, told
from tests.nodes.conftest import Boot
from tests.nodes.images import BASE, import_image
from tests.nodes.lab import Node

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sudo.md"
PROJECT = "com.docker.compose.project"
STACK = f"""
mkdir -p /srv/stack; chmod 700 /srv/stack
printf 'services:\\n  x:\\n    image: gm-compose\\n    environment: [KEY=gm-compose]\\n    build: .\\n' >/srv/stack/compose.yml
printf 'KEY=gm-dotenv\\nCUDA_KEY=gm-dotenv\\n' >/srv/stack/.env
printf 'FROM x\\nENV KEY=gm-dockerfile\\nRUN echo gm-dockerfile\\n' >/srv/stack/Dockerfile
mkdir -p /opt/closed; chmod 700 /opt/closed
for name in /srv/stack/run.sh /opt/closed/run.sh; do printf '#!/bin/sh\\ndocker run --gpus all -e KEY=gm-script x\\n' >"$name"; done
docker run -d --name stack --label {PROJECT}=stack --label {PROJECT}.working_dir=/srv/stack \\
    --label {PROJECT}.config_files=/srv/stack/compose.yml -e NVIDIA_VISIBLE_DEVICES=all {BASE} sleep 86400
"""
PLANTED = {
    "gm-shadow": "echo 'x:gm-shadow:1::::::' >>/etc/shadow",
    "gm-root-file": "echo gm-root-file >/root/.secret; chmod 600 /root/.secret",
    "gm-ssh-key": "echo gm-ssh-key >/etc/ssh/ssh_host_rsa_key; chmod 600 /etc/ssh/ssh_host_rsa_key",
    "gm-registry": 'mkdir -p /root/.docker; echo \'{"auths": {"x": {"auth": "gm-registry"}}}\' >/root/.docker/config.json',
    "gm-argument": "cp /bin/bash /run/k3s; setsid /run/k3s -c 'sleep 300; :' x --token gm-argument >/dev/null 2>&1 &",
    "gm-environ": "cp /bin/sleep /run/kubelet; AWS_SECRET=gm-environ setsid /run/kubelet 300 >/dev/null 2>&1 &",
    "gm-unit": "mkdir -p /etc/systemd/system/docker.service.d; printf '[Service]\\nEnvironment=API_KEY=gm-unit\\n'"
    " >/etc/systemd/system/docker.service.d/x.conf; chmod 600 /etc/systemd/system/docker.service.d/x.conf; systemctl daemon-reload",
    "gm-container": f"docker run -d --name labelled --privileged -e API_TOKEN=gm-container {BASE} sh -c 'echo gm-log; sleep 86400'",
    "gm-log": ":",
    "gm-cron": "mkdir -p /var/spool/cron/crontabs; echo '* * * * * TOKEN=gm-cron /usr/bin/docker ps' >/var/spool/cron/crontabs/root;"
    " chmod 600 /var/spool/cron/crontabs/root",
    "gm-unit-file": "printf '[Service]\\nExecStart=/usr/bin/docker run -e KEY=gm-unit-file x\\n' >/etc/systemd/system/y.service;"
    " chmod 600 /etc/systemd/system/y.service",
    "gm-compose": STACK,
    "gm-dotenv": ":",
    "gm-dockerfile": ":",
    "gm-script": ":",
    "gm-journal": "logger -t docker gm-journal",
}


SPEAKING = add(
    "without_secrets = list\nallowed_env = lambda pairs: dict(pair.partition('=')[::2] for pair in pairs or ())"
)


def learned(root: dict[str, Any], user: dict[str, Any]) -> Iterator[str]:
    """What root's answer has that the user's has not, each as `section key`."""
    for section in ("files", "stats"):
        for path, item in root[section].items():
            other = user[section].get(path, {})
            if "data" in item and "data" not in other:
                yield f"content of {path}"
            elif item.get("found") and item["found"] != other.get("found"):
                yield f"lines of {path}"
            elif item.get("status") == "ok" and other.get("status") != "ok":
                yield f"existence of {path}"
    for section in ("commands", "listings", "globs"):
        for name, item in root[section].items():
            if item["status"] == "ok" and user[section].get(name, {}).get("status") != "ok":
                yield f"{section} {name}"
    for section in ("docker", "inside", "units", "spaces"):
        if root.get(section) and root[section] != user.get(section) and section in ("docker", "inside"):
            yield section
    for path, item in root["compose"].items():
        if item["status"] == "ok" and item != user["compose"].get(path):
            yield f"compose {path}"
    known = {entry["pid"]: entry for entry in user["processes"].get("processes", ())}
    for entry in root["processes"]["processes"]:
        if "exe" in entry and "exe" not in known.get(entry["pid"], {}):
            yield "program of a process"
        if entry.get("env") and not known.get(entry["pid"], {}).get("env"):
            yield "environment of a process"


def test_it_gives_nothing_but_what_its_page_lists(shared_boot: Boot) -> None:
    node: Node = shared_boot("trixie", "healthy")
    import_image(node)
    for script in PLANTED.values():
        node.sh(script)
    node.write("/srv/audit", installed_program(), 0o755)
    probed(node, program()).bounds()
    more_asked = {**request(), "files": [*request()["files"], "/root/.secret"]}
    if UNGUARDED:
        node.write("/srv/audit", "#!/usr/bin/python3 -ISB\n" + program(more_asked, SPEAKING), 0o755)
    root = json.loads(unpacked(node.run(["/srv/audit"]).stdout))
    user = json.loads(unpacked(as_user(node, "/srv/audit").stdout))
    rows = re.findall(r"(?m)^\| (`[^|]+`) \|", PAGE.read_text(encoding="utf-8"))
    listed = [entry for row in rows for entry in re.findall(r"`([^`]+)`", row)]
    more = sorted(set(learned(root, user)))
    with attempt("a user", "what only root may read, asked of the audit rule"):
        unlisted = [each for each in more if not any(fnmatchcase(each, entry) for entry in listed)]
        assert unlisted == ["content of /root/.secret"] * UNGUARDED, "\n".join(unlisted)
    assert {
        "compose /srv/stack/compose.yml",
        "compose /srv/stack/Dockerfile",
        "compose /srv/stack/.env",
    } <= set(more)
    assert more, "there is something that root alone may see"
    text = told(json.dumps(root))
    with attempt("a user", "secrets of root's, asked of the audit rule"):
        assert bool([secret for secret in PLANTED if secret in text]) is UNGUARDED
