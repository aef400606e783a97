"""The model: configuration, modelling and processing, and the parts that they are made of."""
