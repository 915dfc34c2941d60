"""The pipeline file, its stages, and runs of them."""
