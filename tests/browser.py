"""The browser of the system, and whether a machine must have one."""

import os
import shutil

NEEDED = os.environ.get("LORA_PROFILER_NEEDS_BROWSER")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
