"""CUDA toolkits for nodes: packages of NVIDIA's names and relations, and a stand-in for NVIDIA's runfile."""

from __future__ import annotations

import hashlib
import json

from tests.nodes.apt import Deb
from tests.nodes.lab import Node

RELEASE = "12.4"
TREE = f"/usr/local/cuda-{RELEASE}"
RUNFILE = "/srv/cuda_12.4.1_550.54.15_linux.run"
BUSY, GO, FULL = "/run/runfile.busy", "/run/runfile.go", "/run/runfile.full"

# It does what cuda.md, section 6, and the field report say of NVIDIA's: without --toolkit it brings the driver, --silent takes the
# licence, it leads /usr/local/cuda to itself and writes a file of the linker's; on a full disk it leaves half a tree and ends
# with status 134. OLDUSIZE is makeself's.
STANDIN = """#!/bin/sh
# STAND-IN for tests, not NVIDIA's runfile.
dumpconf() {{
	echo OLDUSIZE={size}
}}
toolkit=no silent=no path=/usr/local/cuda-12.4
for word; do case "$word" in
  --toolkit) toolkit=yes;; --silent) silent=yes;; --toolkitpath=*) path=${{word#*=}};; --tmpdir=*) tmp=${{word#*=}};;
esac; done
[ $silent = yes ] || {{ echo "the licence wants an answer" >&2; exit 1; }}
[ $toolkit = yes ] || {{ touch /usr/bin/nvidia-uninstall; exit 0; }}
echo "[INFO]: Installing" >/var/log/cuda-installer.log
mkdir -p "$tmp/selfgz1" "$path/bin" "$path/extras/CUPTI/lib64"
printf '#!/bin/sh\\necho "Cuda compilation tools, release 12.4, V12.4.131"\\n' >"$path/bin/nvcc"
chmod 755 "$path/bin/nvcc"
if [ -e {busy} ]; then touch {busy}.seen; while [ ! -e {go} ]; do sleep 0.1; done; fi
[ -e {full} ] && {{ echo "boost::filesystem::copy_file: No space left on device" >&2; exit 134; }}
echo x >"$path/extras/CUPTI/lib64/libcupti.so.12"
echo "$path/lib64" >/etc/ld.so.conf.d/cuda-12-4.conf
ln -sfn "$path" /usr/local/cuda
cp "$path/bin/nvcc" "$path/bin/cuda-uninstaller"
echo '{{"cuda": {{"name": "CUDA SDK", "version": "{version}"}}}}' >"$path/version.json"
"""


def put_runfile(node: Node, size: int = 64, version: str = "12.4.1") -> str:
    """The stand-in lies on the node; returns its SHA-256. size: KiB that it says to unpack."""
    text = STANDIN.format(size=size, version=version, busy=BUSY, go=GO, full=FULL)
    node.write(RUNFILE, text, 0o644)
    return hashlib.sha256(text.encode()).hexdigest()


def debs(version: str = "12.4.1-1") -> list[Deb]:
    """The packages of a release in four flavours, and the metapackages that pull a driver."""
    install = f"update-alternatives --install /usr/local/cuda cuda {TREE} 124"
    config = Deb(
        "cuda-toolkit-12-4-config-common",
        "12.4.127-1",
        files={f"{TREE}/version.json": (json.dumps({"cuda": {"version": "12.4.1"}}).encode(), 0o644)},
        scripts={
            "postinst": f"#!/bin/sh\nset -e\n{install}\n",
            "prerm": f"#!/bin/sh\nupdate-alternatives --remove cuda {TREE}\n",
        },
    )
    base = config.name
    nvcc = b'#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n'

    def lib(name: str, path: str, depends: str = base, data: bytes = b"x") -> Deb:
        return Deb(name, "12.4.127-1", depends=depends, files={f"{TREE}/{path}": (data, 0o755)})

    target = "targets/x86_64-linux"
    return [
        config,
        lib("cuda-cudart-12-4", f"{target}/lib/libcudart.so.12.4.127"),
        lib("cuda-cudart-dev-12-4", f"{target}/include/cuda_runtime.h", "cuda-cudart-12-4"),
        lib("cuda-nvcc-12-4", "bin/nvcc", data=nvcc),
        lib("cuda-cupti-12-4", f"{target}/lib/libcupti.so.12"),
        lib("cuda-cupti-dev-12-4", f"{target}/include/cupti.h", "cuda-cupti-12-4"),
        Deb("cuda-libraries-12-4", version, depends="cuda-cudart-12-4"),
        Deb("cuda-libraries-dev-12-4", version, depends="cuda-cudart-dev-12-4"),
        Deb("cuda-minimal-build-12-4", version, depends="cuda-nvcc-12-4, cuda-cudart-dev-12-4"),
        Deb(
            "cuda-toolkit-12-4",
            version,
            depends="cuda-libraries-dev-12-4, cuda-nvcc-12-4, cuda-cupti-dev-12-4",
        ),
        Deb("cuda-drivers", "550.54.15-1"),
        Deb("cuda-runtime-12-4", version, depends="cuda-libraries-12-4, cuda-drivers"),
    ]
