"""The question as widgets in a column, grouped as people think of them: what Measure asks."""

import streamlit as st

from lora_profiler.dashboard import fields
from lora_profiler.dashboard.fields import Asked, tell
from lora_profiler.dashboard.remembered import BY_NAME, UPLOAD, question, seed, settle, values

__all__ = ["Asked", "ask", "question", "seed", "tell"]


def ask() -> Asked:
    """Draws the whole question in the place where it is called, but for what a real run does not
    ask about: the card, the link between ranks, the engine."""
    found = values()
    found["origin"] = fields.origin()
    file = None
    if found["origin"] == UPLOAD:
        file = fields.config_json()
    else:
        found["model"] = fields.model()
    found["trainer"] = fields.trainer()
    found["methods"] = fields.methods()
    with st.expander("Batch and length", expanded=True):
        found |= fields.group("batch")
    if {"lora", "qlora"} & set(found["methods"]):
        with st.expander("Adapter", expanded=True):
            found |= fields.group("adapter")
    if "qlora" in found["methods"]:
        with st.expander("4-bit base"):
            found |= fields.group("base")
    with st.expander("Weights and optimizer"):
        found |= fields.group("optimizer")
    with st.expander("Several ranks", expanded=found["sharding"] != "none"):
        found |= fields.ranks(network=False)
    with st.expander("Attention"):
        found |= fields.group("attention", leave_out=("device",))
    if found["origin"] == BY_NAME:
        with st.expander("Look-up"):
            found |= fields.look_up()
    return fields.look_up_model(settle(), file, uploaded=found["origin"] == UPLOAD)
