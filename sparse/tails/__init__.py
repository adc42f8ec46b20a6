"""What stands for the text before a window, in a state of constant size."""
