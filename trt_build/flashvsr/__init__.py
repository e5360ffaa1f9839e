"""FlashVSR's published checkpoints: reading, checking and exporting them. Nothing here runs inside a script."""
