"""Wan's diffusion transformer and memory blocks as torch modules: the only place here that imports torch."""
