"""What a process has imported when it ends."""

import subprocess
import sys

HEAVY = [
    "torch", "numpy", "pandas", "transformers", "peft", "accelerate", "bitsandbytes",
    "huggingface_hub", "rich", "streamlit", "jinja2", "ray", "httpx", "pygments",
    "importlib.metadata", "urllib.request", "asyncio", "concurrent.futures",
]  # fmt: skip
SHOW_MODULES = (
    "import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); "
)


def modules_after(code: str, exit_code: int = 0) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES + code], capture_output=True, text=True
    )
    assert done.returncode == exit_code, done.stderr
    return set(done.stderr.split())
