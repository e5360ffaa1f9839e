"""Training and export of the small networks that predict chroma from luma that was made."""
