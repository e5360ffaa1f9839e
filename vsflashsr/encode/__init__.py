"""Everything round the filter that turns a file into a file: probing, chunks, encoders, tracks. Nothing here knows a model."""
