"""From predictions to rows and text. Nothing here computes a cost, prints, or knows which face
shows it."""
