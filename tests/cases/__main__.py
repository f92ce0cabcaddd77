"""What the judge says of the cases: `python -m tests.cases [NAME...]`."""

import importlib
import pathlib
import sys

from tests.unit.build import verdict

HELPERS = {"__init__", "__main__", "base", "k8s"}
names = sys.argv[1:] or sorted(
    p.stem for p in pathlib.Path(__file__).parent.glob("*.py") if p.stem not in HELPERS
)
for name in names:
    case = importlib.import_module(f"tests.cases.{name}")
    print(
        f"== {name}  {(case.__doc__ or '').strip().splitlines()[0] if case.__doc__ else getattr(case, 'SOURCE', '')}"
    )
    hosts = getattr(case, "HOSTS", None) or {"host": case.HOST}
    for label, host in hosts.items():
        found = verdict(host, getattr(case, "WANTED", None)).findings
        print(f"  -- {label}: {len(found)} findings")
        for f in found:
            change = f"  [changes {f.change.component}]" if f.change else ""
            held = f"  [held: {f.refused}]" if f.refused else ""
            print(f"     {f.status} {f.code} {f.summary}{change}{held}")
    if getattr(case, "EXPECT", ""):
        print(f"  expected: {case.EXPECT}")
