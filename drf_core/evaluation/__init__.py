"""What an evaluation asks of a model, what the model said, and figures with intervals."""
