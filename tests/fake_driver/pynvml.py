"""Stands in for pynvml in processes that have this folder on PYTHONPATH: one card that FAKE_NVML, a
JSON object, describes. Importing it takes FAKE_NVML_SECONDS."""

import json
import os
import time

import fake_nvml

time.sleep(float(os.environ.get("FAKE_NVML_SECONDS", "0")))
_card = fake_nvml.FakeDevice("GPU-1", **json.loads(os.environ["FAKE_NVML"]))
_library = fake_nvml.FakeNvml(_card)
globals().update(
    {name: getattr(_library, name) for name in dir(_library) if name.startswith(("nvml", "NVML"))}
)
