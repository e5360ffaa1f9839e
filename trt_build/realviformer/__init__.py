"""RealViformer, a causal recurrent x4 upscaler: its network, and from its checkpoint to a bundle of kind ``recurrent``."""
