"""How much the property tests try: few by default, `GPUMEND_FUZZ_EXAMPLES=5000` for a night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gpumend",
    max_examples=int(os.environ.get("GPUMEND_FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gpumend")
