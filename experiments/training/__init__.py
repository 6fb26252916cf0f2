"""The training engine: networks on real images, from a configuration."""
