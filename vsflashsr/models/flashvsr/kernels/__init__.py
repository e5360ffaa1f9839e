"""FlashVSR's own kernels: their sources, how they are compiled, found, loaded and launched."""
