"""The hosts that an image is for, as a report of theirs tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpumend.state.gpu import Detail, Details
from gpumend.state.reading import Reading, Status
from gpumend.text.version import Version, told_version


@dataclass(frozen=True)
class Target:
    """driver: the loaded one, None where the host has none. toolkit: NVIDIA's container toolkit. details: brands and
    architectures of its GPUs."""

    name: str
    driver: Reading[Version]
    toolkit: Version
    details: Reading[Details]
    wsl2: bool = False


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def hosts(document: Any, source: str, name: str = "") -> Iterator[Target]:
    """The hosts of a report of an audit, a mend or of facts. Raises ValueError where it is none, or has no such host."""
    kind = _mapping(document).get("kind")
    if kind not in ("audit", "mend", "facts") or not isinstance(document.get("hosts"), Mapping):
        raise ValueError(f"{source} is no report of `gpumend audit`, `mend` or `facts`")
    found = {key: _mapping(value) for key, value in document["hosts"].items()}
    if name and name not in found:
        raise ValueError(f"{source} has no host {name!r}; it has: {', '.join(found) or 'none'}")
    if not found:
        raise ValueError(f"{source} has no host")
    for key, host in found.items():
        if name in ("", key):
            yield _of_facts(key, host, source) if kind == "facts" else _of_report(key, host, source)


def _driver(told: Any, source: str, error: Any) -> Reading[Version]:
    version = told_version(told)
    if version is not None:
        return Reading.of(version, source)
    if error or isinstance(told, Mapping):
        return Reading.fail(source, str(error or "its driver could not be read"))
    return Reading.none(source, "no driver is loaded")


def _of_report(name: str, host: Mapping[str, Any], source: str) -> Target:
    facts = _mapping(host.get("facts"))
    driver = _driver(facts.get("driver"), source, host.get("error"))
    cards = facts.get("cards")
    details: Reading[Details] = Reading(
        Status.FAILED, None, source, "it does not tell the GPUs' architecture"
    )
    if isinstance(cards, list) and cards and driver.value:
        gpus = tuple(_detail(_mapping(card)) for card in cards)
        details = Reading.of(Details(gpus, driver.value, None), source)
    wsl2 = bool(re.search("microsoft", str(facts.get("kernel") or ""), re.IGNORECASE))
    return Target(name, driver, told_version(facts.get("toolkit")) or (), details, wsl2)


def _of_facts(name: str, host: Mapping[str, Any], source: str) -> Target:
    gpus, machine = _mapping(host.get("gpus")), _mapping(host.get("host"))
    loaded = _mapping(host.get("driver")).get("loaded")
    driver = _driver(loaded, source, host.get("error"))
    told = _mapping(gpus.get("details"))
    details: Reading[Details] = Reading(
        Status.FAILED, None, source, "it does not tell the GPUs' architecture"
    )
    version = told_version(told.get("driver"))
    if isinstance(told.get("gpus"), list) and version:
        cards = tuple(_detail(_mapping(card)) for card in told["gpus"])
        details = Reading.of(Details(cards, version, told_version(told.get("cuda"))), source)
        driver = driver if driver.value else Reading.of(version, source)
    toolkit = told_version(_mapping(host.get("toolkit")).get("version")) or ()
    return Target(name, driver, toolkit, details, bool(machine.get("wsl2")))


def _detail(card: Mapping[str, Any]) -> Detail:
    name, brand, architecture = (str(card.get(key) or "") for key in ("name", "brand", "architecture"))
    return Detail(name, brand, architecture)
