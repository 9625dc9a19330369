"""A checkpoint of holes for LitGPT, run with it on PYTHONPATH: name of its config, and a folder."""

import dataclasses
import sys
from pathlib import Path

import torch
import yaml
from litgpt import GPT, Config  # type: ignore[import-not-found]

name, place = sys.argv[1], Path(sys.argv[2])
config = Config.from_name(name)
with torch.device("meta"):
    model = GPT(config).bfloat16()
with torch.serialization.skip_data():
    torch.save(model.to_empty(device="cpu").state_dict(), place / "lit_model.pth")
(place / "model_config.yaml").write_text(yaml.dump(dataclasses.asdict(config)))
