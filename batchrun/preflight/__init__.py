"""Before the first start: identity of the batch, inputs, builds, prices, forecast."""
