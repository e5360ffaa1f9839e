"""FlashVSR: the streaming step, written once over an executor, and the model the filter runs."""
