"""What the README's figures come from, one command each. Every figure is a ratio to a baseline of the same run."""
