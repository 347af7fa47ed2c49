"""Pictures as they are stored -> pictures as the model sees them."""
