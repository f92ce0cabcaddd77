"""Draws bench.json as bench.svg; run by the peers' own Python, which has matplotlib.

python plot.py docs/bench.json docs/bench.svg
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

SHOWN = {
    "ssh host true": ("0.4", ":"),
    "gpumend audit, replayed": ("tab:green", "-"),
    "gpumend audit": ("tab:green", "--"),
    "stock pyinfra facts": ("tab:orange", "-"),
    "Ansible --check": ("tab:red", "-"),
}


def main(source, target):
    """One panel for each added round trip: wall seconds over hosts, both logarithmic."""
    rows = json.loads(Path(source).read_text())["rows"]
    trips = sorted({row["rtt"] for row in rows})
    figure, axes = plt.subplots(1, len(trips), figsize=(4 * len(trips), 4), sharey=True, squeeze=False)
    for axis, trip in zip(axes[0], trips, strict=True):
        for program, (color, line) in SHOWN.items():
            # of several runs the newest, which is the last
            newest = {r["hosts"]: r["wall"] for r in rows if (r["program"], r["rtt"]) == (program, trip)}
            found = sorted(newest.items())
            if found:
                axis.plot(
                    *zip(*found, strict=True), line, color=color, marker="o", markersize=3, label=program
                )
        axis.set(xscale="log", yscale="log", xlabel="hosts", title=f"added round trip {trip:g} ms")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("wall seconds")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
