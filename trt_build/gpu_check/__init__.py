"""What `scripts/gpu_check.py` measures, a subject a file: each part is a function from `Settings` to what goes into the JSON."""
