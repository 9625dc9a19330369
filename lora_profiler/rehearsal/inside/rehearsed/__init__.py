"""Hooks on torch that write down what a script's training steps ask of the pretended card. Standard
library and torch only."""
