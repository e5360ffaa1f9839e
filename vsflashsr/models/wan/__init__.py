"""What models around Wan's diffusion transformer share: FlashVSR and SwiftVR."""
