"""The dashboard for `streamlit run app.py`; `lora-profile app` opens the same one."""

from lora_profiler.dashboard.shell import show

show()
