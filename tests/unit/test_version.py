from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.text.version import Version, parse_version, show


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("Docker version 28.5.2, build ecc6942", (28, 5, 2)),
        (
            "NVIDIA Container Toolkit CLI version 1.20.0-dev\ncommit: d34b3046758cb1a5db606b2a39519c731bbf9f56",
            (1, 20, 0),
        ),
        ("NVIDIA Container Toolkit CLI version 1.18.0~rc.1", (1, 18, 0)),
        ("containerd github.com/containerd/containerd/v2 v2.1.9 4c0", (2, 1, 9)),
        ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", (1, 7, 27)),
        ("podman version 5.4.2", (5, 4, 2)),
        ("runc version 1.3.6\ncommit: v1.3.6", (1, 3, 6)),
        ("Version: 4.2", (4, 2)),
        ("580.142", (580, 142)),
        ("550.54.15", (550, 54, 15)),
        ("0.5.0", (0, 5, 0)),
    ],
)
def test_the_first_dotted_number_is_the_version(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "no version", "28", "v", "."])
def test_no_version_is_an_error_that_names_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="no version number in"):
        parse_version(text)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("12.9", "12.10"),
        ("1.9.9", "1.18.0"),
        ("580.95.05", "580.142"),
        ("28.5", "28.5.2"),
        ("20.10.24", "26.1.5"),
    ],
)
def test_versions_compare_as_numbers(older: str, newer: str) -> None:
    assert parse_version(older) < parse_version(newer)


@pytest.mark.parametrize(
    "text",
    ["550.54.15", "580.65.06", "550.163.01", "580.142", "440.82", "28.5.2", "1.18.0", "0.5.0", "13.0", "5.4"],
)
def test_a_version_is_shown_as_people_write_it(text: str) -> None:
    assert show(parse_version(text)) == text


def test_a_tegra_driver_is_shown_as_people_write_it() -> None:
    """R36's 540.4.0 has one-digit parts (proc_driver_version_samples.txt)."""
    assert show(parse_version("540.4.0")) == "540.4.0"


@given(st.lists(st.integers(0, 299), min_size=2, max_size=4))
def test_show_and_parse_are_inverse(parts: list[int]) -> None:
    assert parse_version(show(tuple(parts))) == tuple(parts)
