from lora_profiler.catalog.bundled import CatalogEntry as CatalogEntry
from lora_profiler.catalog.bundled import bundled_models as bundled_models
from lora_profiler.catalog.gpus import Gpu as Gpu
from lora_profiler.catalog.gpus import bundled_gpus as bundled_gpus
from lora_profiler.catalog.gpus import find_gpu as find_gpu
from lora_profiler.catalog.gpus import match_device as match_device
from lora_profiler.catalog.lookup import find_model as find_model
from lora_profiler.catalog.lookup import model_from_config as model_from_config
