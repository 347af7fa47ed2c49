"""Other tasks: who they are, how they find each other, and what is done when one is lost."""
