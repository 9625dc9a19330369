# The dashboard, as nobody, on a file system that it cannot write to:
#   docker build -t lora-profiler . && docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8501:8501 lora-profiler
# It prints an address with a token; without the token it answers nobody.
FROM python:3.12-slim
COPY . /source
RUN pip install --no-cache-dir "/source[app]" && rm -rf /source
WORKDIR /app
COPY app.py .
RUN mkdir .streamlit && python -m lora_profiler.dashboard.serving >.streamlit/config.toml
ENV HOME=/tmp HF_HOME=/tmp/huggingface LORA_PROFILER_CACHE=/tmp/lora-profiler \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_HEADLESS=true
USER nobody
EXPOSE 8501
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health')"]
CMD ["streamlit", "run", "app.py"]
