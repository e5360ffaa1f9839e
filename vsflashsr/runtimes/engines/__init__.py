"""TensorRT engines: what identifies one, how it is built, where it is kept. Start reading in ``store``."""
