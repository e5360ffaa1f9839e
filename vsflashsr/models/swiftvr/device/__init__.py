"""SwiftVR's step on a device."""
