"""SwiftVR: a streaming one-step restorer, an autoencoder around a DiT with windowed attention."""
