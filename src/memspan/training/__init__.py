"""Training: gradients, optimizer state and activations, planned before they are spent."""
