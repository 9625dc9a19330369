"""What `lora-profile app` has streamlit run: the pages, behind their door."""

from streamlit.starlette import App

from lora_profiler.dashboard.serving import MIDDLEWARE, PAGES, ROUTES, lifespan

app = App(PAGES, routes=ROUTES, middleware=MIDDLEWARE, lifespan=lifespan)
