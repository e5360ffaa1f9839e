"""FlashVSR's step on a GPU: buffers, graphs and kernels on streams."""
