"""Which device does what."""
