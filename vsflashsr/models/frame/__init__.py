"""Single-frame upscalers: any ONNX graph of one image in, one larger image out."""
