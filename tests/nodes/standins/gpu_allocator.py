#!/usr/bin/python3
"""STAND-IN for tests: ds01's gpu_allocator.py as the captures show it (v1: no lock, the file written in place):
`release CONTAINER` and `status`."""

import datetime
import json
import sys

STATE, LOG = "/var/lib/ds01/gpu-state.json", "/var/log/ds01/gpu-allocations.log"


def main() -> int:
    with open(STATE) as handle:
        state = json.load(handle)
    if sys.argv[1:2] == ["status"]:
        for slot, found in state["gpus"].items():
            print(slot, *found["containers"])
        return 0
    name, released = sys.argv[2], 0
    for slot, found in state["gpus"].items():
        if name in found["containers"]:
            found["containers"].remove(name)
            user = next(iter(found["users"]), "unknown")
            found["users"][user] = found["users"].get(user, 1) - 1
            if not found["users"][user]:
                del found["users"][user]
            now, left = datetime.datetime.now().isoformat(), len(found["containers"])
            with open(LOG, "a") as log:
                log.write(
                    f"{now}|RELEASED|{user}|{name}|{slot}|priority=10|RELEASED (now has {left} containers)\n"
                )
            released += 1
    with open(STATE, "w") as handle:
        json.dump(state, handle, indent=2)
    return 0 if released else 1


if __name__ == "__main__":
    sys.exit(main())
