"""What axe-core finds wrong with a page in a browser."""

from typing import Any

import pytest

from browser import NEEDED


def axe() -> Any:
    """axe-core in Playwright. The test is skipped where the package is not installed, unless the
    machine must have a browser."""
    if not NEEDED:
        pytest.importorskip("axe_playwright_python", reason="pip install 'lora-profiler[test]'")
    from axe_playwright_python.sync_playwright import Axe

    return Axe()


def serious(page: Any) -> list[str]:
    """Its serious and critical findings: rule and element."""
    violations = axe().run(page).response["violations"]
    return [
        f"{found['id']}: {node['html'][:160]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
