"""What `lora-profile app` has streamlit run."""

from lora_profiler.dashboard.shell import show

show()
