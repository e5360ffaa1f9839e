"""SwiftVR as torch modules: the only place of this model that imports torch."""
