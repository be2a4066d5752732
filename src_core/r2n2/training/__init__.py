"""Training of the network: settings, data, loop, validation and adapting."""
