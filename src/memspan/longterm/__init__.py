"""Long-term memory: stores outside the model, with recall that says where it comes from."""
