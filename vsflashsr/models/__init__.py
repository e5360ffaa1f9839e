"""One folder a kind of model, and how a model is found and opened."""
