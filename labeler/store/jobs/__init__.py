"""Jobs of the service: requests, their blocks, claims of features, and texts that wait for their activations."""
