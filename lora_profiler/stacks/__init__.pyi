from lora_profiler.stacks.find import TRAINERS as TRAINERS
from lora_profiler.stacks.find import find_stack as find_stack
from lora_profiler.stacks.find import versions as versions
from lora_profiler.stacks.stack import Gap as Gap
from lora_profiler.stacks.stack import Packing as Packing
from lora_profiler.stacks.stack import Refusal as Refusal
from lora_profiler.stacks.stack import Stack as Stack
