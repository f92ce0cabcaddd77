"""For programs: one JSON document (gpumend/schemas/report.schema.json)."""

from __future__ import annotations

import json
from typing import Any

from gpumend.reports.format import EVERY, report_format


@report_format("json", kinds=EVERY)
def render(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
