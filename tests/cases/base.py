import re

from tests.unit.build import *

AUTO = {"runtime": {"mode": "auto"}}
SMI_Q = fixture("h100/smi_q.txt")


def cfg(mode="auto", ld="@/sbin/ldconfig.real", **keys):
    text = config(mode, ld)
    for key, value in keys.items():
        text, n = re.subn(
            rf"(?m)^#?{key.replace('_', '-')} = .*$", f"{key.replace('_', '-')} = {value}", text, count=1
        )
        assert n, key
    return text


def smiq(product="NVIDIA H100 80GB HBM3", fabric="N/A", status="N/A", mig=None):
    text = re.sub(
        r"(?m)^([ \t]+Fabric\n[ \t]+State[ \t]*:).*\n([ \t]+Status[ \t]*:).*$",
        rf"\1 {fabric}\n\2 {status}",
        SMI_Q,
    )
    text = re.sub(r"(?m)^([ \t]+Product Name[ \t]*:).*$", rf"\1 {product}", text)
    if mig:
        text = re.sub(
            r"(?m)^([ \t]+MIG Mode\n[ \t]+Current[ \t]*:).*\n([ \t]+Pending[ \t]*:).*$",
            rf"\1 {mig}\n\2 {mig}",
            text,
        )
    return text
