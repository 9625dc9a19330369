"""The dashboard for `streamlit run app.py`, which says on which address; `lora-profile app` opens
the same one."""

from streamlit.starlette import App

from lora_profiler.dashboard.serving import MIDDLEWARE, PAGES, lifespan

app = App(PAGES, middleware=MIDDLEWARE, lifespan=lifespan)
