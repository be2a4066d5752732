"""Pictures for the screen: stacks, animations and video."""
