"""What ``vsflashsr compare`` is made of: ways of upscaling, scores, pictures, and the page that shows them."""
