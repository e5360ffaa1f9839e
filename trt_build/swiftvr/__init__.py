"""SwiftVR: from its checkpoint to a bundle of kind ``swiftvr``, and held against reference numbers."""
