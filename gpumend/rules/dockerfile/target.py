"""The hosts that an image is for, as a report of theirs tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules import told
from gpumend.state.gpu import Detail, Details
from gpumend.state.reading import Reading, Status
from gpumend.text.record import Record
from gpumend.text.version import Version, told_version

UNTOLD = "it does not tell the GPUs' architecture"


class Target(Record):
    """driver: the loaded one, None where the host has none. toolkit: NVIDIA's container toolkit. details: brands and
    architectures of its GPUs."""

    name: str
    driver: Reading[Version]
    toolkit: Version
    details: Reading[Details]
    wsl2: bool = False


def hosts(document: Any, source: str, name: str = "") -> Iterator[Target]:
    """The hosts of a report of an audit, a mend or of facts. Raises ValueError where it is none, or has no such host."""
    return map(target_of, told.hosts(document, source, name))


def target_of(host: told.Told) -> Target:
    """What a report tells of a host. Its driver is a failed reading where the host gave no answer."""
    return _of_facts(host) if host.whole else _of_report(host)


def _driver(version: Any, host: told.Told) -> Reading[Version]:
    found = told_version(version)
    if found is not None:
        return Reading.of(found, host.source)
    if host.error or isinstance(version, Mapping):
        return Reading.fail(host.source, host.error or "its driver could not be read")
    return Reading.none(host.source, "no driver is loaded")


def _of_report(host: told.Told) -> Target:
    driver, cards = _driver(host.at("driver"), host), host.at("cards")
    details: Reading[Details] = Reading(Status.FAILED, None, host.source, UNTOLD)
    if isinstance(cards, list) and cards and driver.value:
        gpus = tuple(_detail(told.mapping(card)) for card in cards)
        details = Reading.of(Details(gpus, driver.value, None), host.source)
    wsl2 = bool(re.search("microsoft", str(host.at("kernel") or ""), re.IGNORECASE))
    return Target(host.name, driver, told_version(host.at("toolkit")) or (), details, wsl2)


def _of_facts(host: told.Told) -> Target:
    driver = _driver(host.at("driver", "loaded"), host)
    details: Reading[Details] = Reading(Status.FAILED, None, host.source, UNTOLD)
    version, gpus = told_version(host.at("gpus", "details", "driver")), host.at("gpus", "details", "gpus")
    if isinstance(gpus, list) and version:
        cards = tuple(_detail(told.mapping(card)) for card in gpus)
        cuda = told_version(host.at("gpus", "details", "cuda"))
        details = Reading.of(Details(cards, version, cuda), host.source)
        driver = driver if driver.value else Reading.of(version, host.source)
    toolkit = told_version(host.at("toolkit", "version")) or ()
    return Target(host.name, driver, toolkit, details, bool(host.at("host", "wsl2")))


def _detail(card: Mapping[str, Any]) -> Detail:
    name, brand, architecture = (str(card.get(key) or "") for key in ("name", "brand", "architecture"))
    return Detail(name, brand, architecture)
