"""After a component that failed: what builds on it waits and says on what, all else goes on; what is futile is not tried."""

from __future__ import annotations

import pytest

from gpumend.plan.needs import NEEDS, held
from gpumend.reports import outputs, terminal
from gpumend.rules.finding import Component
from gpumend.run.outcome import Outcome
from tests.unit.build import healthy, named, spec
from tests.unit.farm import mend, mended, no_cdi
from tests.unit.test_packages import MIXED, dpkg, packaged
from tests.unit.test_plan import planned

C = Component


@pytest.mark.parametrize(
    ("which", "ended", "words"),
    [
        pytest.param(C.DOCKER, {}, "", id="nothing-before"),
        pytest.param(C.DOCKER, {C.CDI: "put_back"}, "", id="independent"),
        pytest.param(C.DOCKER, {C.CDI: "refused", C.TOOLKIT: "conflict"}, "", id="independent-of-both"),
        pytest.param(C.TOOLKIT, {C.CDI: "put_back"}, "cdi.spec_current, which ended put_back", id="builds-on-it"),
        pytest.param(C.CDI, {C.APT: "changed", C.DRIVER: "pending"}, "", id="ended-well"),
        pytest.param(C.CRIO, {C.CDI: "refused"}, "cdi.spec_current", id="by-way-of-another"),
        pytest.param(C.PODMAN, {C.CUDA: "broken"}, "cuda.compat, which ended broken", id="broken-ends-all"),
        pytest.param(C.PODMAN, {C.CUDA: "lost"}, "which ended lost", id="lost-ends-all"),
        pytest.param(C.PODMAN, {C.CUDA: "running"}, "which ended running", id="at-work-ends-all"),
    ],
)  # fmt: skip
def test_held(which: Component, ended: dict[Component, str], words: str) -> None:
    """A foreign spec that defined the same device: GM304 "still found", and ldconfig and Docker were never tried."""
    why = held(which, ended)
    assert (why == "") is (words == "") and words in why


def test_a_component_builds_on_earlier_ones_alone() -> None:
    order = list(Component)
    assert all(order.index(needed) < order.index(which) for which in NEEDS for needed in NEEDS[which])


@pytest.mark.parametrize(
    ("rows", "tried"),
    [("", True), ("iF \tman-db\t2.13\n", False), ("iU \tman-db\t2.13\n", False), ("it \tlibc-bin\t2.41\n", True)],
)  # fmt: skip
def test_packages_are_not_tried_where_apt_would_finish_anothers(rows: str, tried: bool) -> None:
    """Its scripts may restart daemons, and the host would refuse."""
    host = packaged(MIXED)
    listed = dpkg(MIXED)
    found = planned(host.but(commands={"dpkg": (0, listed + rows, "")}), {"toolkit": {"install": True}})
    assert (found.get(C.PACKAGES) is not None) is tried
    if not tried:
        assert "`dpkg --configure man-db` first" in found.blocked[C.PACKAGES]


WHY = "it builds on cdi.spec_current, which ended put_back"


@pytest.mark.parametrize("name", sorted(outputs.known()))
def test_every_report_of_a_mend_shows_what_was_left_alone(name: str) -> None:
    record = mended("gpu1", no_cdi(1), Outcome("put_back", "it is still found"))
    record.held[C.TOOLKIT] = WHY
    said = outputs.known()[name].render(mend([record])).replace("\\", "")
    assert WHY in said or (name == "prometheus" and 'blocked_components{host="gpu1"} 1' in said), said


def test_a_mend_that_did_nothing_says_why() -> None:
    record = mended("gpu1", no_cdi(1), Outcome("unchanged"))
    record.done.clear()
    record.held[C.DOCKER] = WHY
    for details in (False, True):
        assert WHY in " ".join(terminal.render(mend([record] * 1), details=details).split())


SPECS = ("/etc/cdi/nvidia.yaml", "/var/run/cdi/nvidia.yaml")
FOREIGN = ("/etc/cdi/a-vendor.yaml", "/etc/cdi/z-vendor.yaml", "/var/run/cdi/vendor.yaml")


@pytest.mark.parametrize("toolkit", ["1.17.8", "1.18.2"])
@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("path", SPECS)
def test_no_spec_is_made_anew_in_vain_beside_a_foreign_one(path: str, foreign: str, toolkit: str) -> None:
    """It defined the same device: GM304 was "still found" after each change, and the change taken back each time."""
    good = spec()
    stale = good.replace("libcuda.so.580.159.04", "libcuda.so.1.2.3")
    for other in (good, stale, good.replace('name: "0"', 'name: "7"')):
        files = {**dict.fromkeys(SPECS), **named(good), path: stale, foreign: other}
        before = healthy(toolkit=toolkit).but(files=files)
        made = planned(before).get(C.CDI)
        if made is None:
            continue
        gone = {step.where: None for step in made.steps if step.do == "remove"}
        written = {step.where: good for step in made.steps if step.do in ("generate", "trigger")}
        left = planned(before.but(files={**written, **gone})).get(C.CDI)
        assert not left or not set(left.codes) & set(made.codes), (made, left)
