"""FlashVSR's torch modules: the definition that the exporter writes and backend "torch" runs. The only torch of the model."""
