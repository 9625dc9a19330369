"""The mathematics of LoRA as a page shows it: a layer in numbers and pictures, and what the claims
were found to be."""
