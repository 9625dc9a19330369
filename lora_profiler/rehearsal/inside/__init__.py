"""What runs inside the script's own process. This folder is put on its PYTHONPATH: Python imports
`sitecustomize`, and that `rehearsed`, in an environment that need not have lora_profiler."""
