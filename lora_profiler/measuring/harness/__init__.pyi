from lora_profiler.measuring.harness.case import Case as Case
from lora_profiler.measuring.harness.case import make_case as make_case
from lora_profiler.measuring.harness.preflight import MeasurementError as MeasurementError
from lora_profiler.measuring.harness.runner import Heartbeat as Heartbeat
from lora_profiler.measuring.harness.runner import MeasurementInterrupted as MeasurementInterrupted
from lora_profiler.measuring.harness.runner import environment_of as environment_of
from lora_profiler.measuring.harness.runner import measure as measure
from lora_profiler.measuring.harness.runner import measure_case as measure_case
